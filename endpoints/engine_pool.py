"""The engines behind the front door: one for each promoted version, started by its serving form.

Adapters of one base share a vLLM: the first starts it, the others are loaded into it while it runs.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core import artifacts, paths
from tuneline.core.errors import NotFound, StageFailed, TunelineError
from tuneline.endpoints.promotion import Promoted, Version, all_promoted
from tuneline.endpoints.tool_selection import Narrowing, narrowing_of
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.server import Server
from tuneline.engines.vllm.tool_parsers import tool_parser_for
from tuneline.engines.vllm.vllm_server import load_adapter, start_vllm, unload_adapter
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare import TEMPLATE

log = logging.getLogger(__name__)


@dataclass
class _Running:
    version: Version
    server: Server
    stack: ExitStack
    model: str
    """Its name in the engine."""
    narrowing: Narrowing | None = None
    """Which tools it is shown, if its run was prepared so."""
    template: str | None = None
    """What each request has to bring: adapters of one base may have learned with several templates."""


@dataclass
class _Shared:
    """The vLLM of a base, for all its adapters."""

    server: Server
    stack: ExitStack
    context: int


class Engines:
    """Keeps an engine up for everything promoted in one of `forms`."""

    def __init__(self, forms: tuple[str, ...], slots: int = 4, gpus: int = 1) -> None:
        self.forms, self.slots, self.gpus = forms, slots, gpus
        self._promoted: dict[str, Promoted] | None = None
        """By name; None until the policy was looked at."""
        self._running: dict[str, _Running] = {}
        self._shared: dict[Path, _Shared] = {}
        """By base."""
        self._logs = Path(tempfile.mkdtemp(prefix="tuneline-engines-"))

    @property
    def ready(self) -> bool:
        """Whether every promoted name has its current version up; not before the policy was looked at."""
        return self._promoted is not None and all(state == "ready" for state in self.state().values())

    def state(self) -> dict[str, str]:
        """`ready` or `starting` for each promoted name."""
        return {name: "ready" if self._is_current(name) else "starting" for name in self._promoted or ()}

    def find(self, name: str) -> tuple[str | None, dict[str, str], Narrowing | None]:
        """(base URL, what a request says there, how its tools are chosen) of a promoted model.

        No URL while its first version starts.

        Raises:
            NotFound: nothing is promoted under that name.
        """
        if running := self._running.get(name):
            shown = {"chat_template": running.template} if running.template else {}
            return running.server.base_url, {"model": running.model} | shown, running.narrowing
        if self._promoted is None or name in self._promoted:
            return None, {"model": name}, None
        there = ", ".join(self._promoted) or "none yet; `tuneline promote RUN --as NAME` adds one"
        raise NotFound(f"{name}: not served here; there are {there}")

    def catch_up(self) -> None:
        """Start what was promoted since the last look, then stop what it replaces; a dead engine starts anew.

        Raises:
            StageFailed: one does not start. The version before it goes on serving.
        """
        promoted = {n: p for n, p in all_promoted().items() if p.current.form in self.forms}
        self._promoted = promoted
        for name in set(self._running) - set(promoted):
            self._running.pop(name).stack.close()
        failed = []
        for name, record in promoted.items():
            try:
                self._bring_up(name, record)
            except TunelineError as error:  # the others are looked after all the same
                failed.append(f"{name}: {error}")
        if failed:
            raise StageFailed("\n".join(failed))

    def _bring_up(self, name: str, record: Promoted) -> None:
        old, version = self._running.get(name), record.current
        if old and old.version == version and old.server.process.poll() is None:
            return
        stack, narrowing = ExitStack(), narrowing_of(paths.run_folder(version.run))
        server = stack.enter_context(self._start(record))
        self._running[name] = _Running(version, server, stack, _model(record), narrowing, _template(version))
        log.info("%s: version %d (%s) answers", name, version.number, version.run)
        if old:
            old.stack.close()

    def stop(self) -> None:
        """Stop all."""
        while self._running:
            self._running.popitem()[1].stack.close()
        while self._shared:
            self._shared.popitem()[1].stack.close()
        shutil.rmtree(self._logs, ignore_errors=True)

    def _is_current(self, name: str) -> bool:
        running, promoted = self._running.get(name), self._promoted or {}
        return running is not None and running.version == promoted[name].current

    def _start(self, record: Promoted) -> AbstractContextManager[Server]:
        version = record.current
        folder = paths.run_folder(version.run)
        if artifacts.open_artifact(folder / "convert").manifest.fingerprint != version.convert:
            raise StageFailed(f"{version.run} is not what was promoted as {record.name}; promote it again")
        served, log_file = folder / version.file, self._logs / f"{record.name}-{version.number}.log"
        if version.form == "gguf":
            return start_llama_server(
                served,
                alias=_model(record),
                log=log_file,
                context=version.context,
                slots=self.slots,
                threads=len(os.sched_getaffinity(0)),
            )
        recipe = _recipe(version)
        if version.form == "adapter":
            return self._loaded(record, recipe, served, log_file)
        return start_vllm(
            served,
            alias=_model(record),
            log=log_file,
            context=version.context,
            parser=tool_parser_for(recipe.base, served),
            gpus=self.gpus,
        )

    @contextlib.contextmanager
    def _loaded(self, record: Promoted, recipe: Recipe, adapter: Path, log_file: Path) -> Iterator[Server]:
        """The adapter in its base's vLLM, until the block ends; the vLLM itself stays up for the others."""
        base = open_base(recipe).path
        shared = self._shared.get(base)
        if shared and shared.server.process.poll() is not None:
            self._shared.pop(base).stack.close()
            shared = None
        if shared is None:
            shared = self._shared[base] = self._share(record, recipe, base, adapter, log_file)
        elif record.current.context > shared.context:
            raise StageFailed(
                f"serve.context: {record.current.context} is more than {shared.context}, with which the vLLM of "
                f"{base.name} was started; start the endpoint anew"
            )
        else:
            load_adapter(shared.server, _model(record), adapter)
        try:
            yield shared.server
        finally:
            unload_adapter(shared.server, _model(record))

    def _share(self, record: Promoted, recipe: Recipe, base: Path, adapter: Path, log_file: Path) -> _Shared:
        """A vLLM for a base, its first adapter loaded; as long a context as any of its models wants now."""
        current = [p.current for p in (self._promoted or {}).values()]
        context = max([record.current.context, *(v.context for v in current if _base(v) == base)])
        stack = ExitStack()
        server = stack.enter_context(
            start_vllm(
                base,
                alias=base.name,
                log=log_file,
                context=context,
                parser=tool_parser_for(recipe.base, base),
                adapters={_model(record): adapter},
                gpus=self.gpus,
            )
        )
        return _Shared(server, stack, context)


def _recipe(version: Version) -> Recipe:
    return recipe_of(paths.run_folder(version.run))


def _base(version: Version) -> Path | None:
    """Of an adapter."""
    return open_base(_recipe(version)).path if version.form == "adapter" else None


def _template(version: Version) -> str | None:
    """What an adapter learned with, where it is not its base's; files of the other forms bear their own."""
    file = paths.run_folder(version.run) / "prepare" / TEMPLATE
    return file.read_text("utf-8") if version.form == "adapter" and file.exists() else None


def _model(record: Promoted) -> str:
    """A version's name in its engine: two versions of one name may be up at once."""
    return f"{record.name}-{record.current.number}"
