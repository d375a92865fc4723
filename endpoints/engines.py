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

from configs.models import registry
from configs.recipe import Recipe
from endpoints import llama_server, vllm_server
from endpoints.llama_server import Server
from endpoints.narrowing import Narrowing, narrowing_of
from endpoints.promotion import Promoted, Version, all_promoted
from stages import artifact, paths
from stages.errors import NotFound, StageFailed
from stages.fetch import open_base
from stages.line import RECIPE
from stages.plan import shape_of_base
from stages.prepare import TEMPLATE

log = logging.getLogger(__name__)


@dataclass
class _Running:
    version: Version
    server: Server
    stack: ExitStack
    model: str
    """Its name in the engine."""
    narrowing: Narrowing | None
    """Which tools it is shown, if its run was prepared so."""


class Engines:
    """Keeps an engine up for everything promoted in one of `forms`."""

    def __init__(self, forms: tuple[str, ...], slots: int = 4) -> None:
        self.forms, self.slots = forms, slots
        self._promoted: dict[str, Promoted] | None = None
        """By name; None until the policy was looked at."""
        self._running: dict[str, _Running] = {}
        self._shared: dict[Path, tuple[Server, ExitStack]] = {}
        """By base: the vLLM that its adapters share."""
        self._logs = Path(tempfile.mkdtemp(prefix="tuneline-engines-"))

    @property
    def ready(self) -> bool:
        """Whether every promoted name has its current version up; not before the policy was looked at."""
        return self._promoted is not None and all(state == "ready" for state in self.state().values())

    def state(self) -> dict[str, str]:
        """`ready` or `starting` for each promoted name."""
        return {name: "ready" if self._is_current(name) else "starting" for name in self._promoted or ()}

    def find(self, name: str) -> tuple[str | None, str, Narrowing | None]:
        """(base URL, name there, how its tools are chosen) of a promoted model; no URL while its first version starts.

        Raises:
            NotFound: nothing is promoted under that name.
        """
        if running := self._running.get(name):
            return running.server.base_url, running.model, running.narrowing
        if self._promoted is None or name in self._promoted:
            return None, name, None
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
        for name, record in promoted.items():
            old = self._running.get(name)
            if old and old.version == record.current and old.server.process.poll() is None:
                continue
            stack = ExitStack()
            server = stack.enter_context(self._start(record))
            narrowing = narrowing_of(paths.run_folder(record.current.run))
            self._running[name] = _Running(record.current, server, stack, _model(record), narrowing)
            log.info("%s: version %d (%s) answers", name, record.current.number, record.current.run)
            if old:
                old.stack.close()

    def stop(self) -> None:
        """Stop all."""
        while self._running:
            self._running.popitem()[1].stack.close()
        while self._shared:
            self._shared.popitem()[1][1].close()
        shutil.rmtree(self._logs, ignore_errors=True)

    def _is_current(self, name: str) -> bool:
        running, promoted = self._running.get(name), self._promoted or {}
        return running is not None and running.version == promoted[name].current

    def _start(self, record: Promoted) -> AbstractContextManager[Server]:
        version = record.current
        folder = paths.run_folder(version.run)
        if artifact.open_artifact(folder / "convert").manifest.fingerprint != version.convert:
            raise StageFailed(f"{version.run} is not what was promoted as {record.name}; promote it again")
        served, log_file = folder / version.file, self._logs / f"{record.name}-{version.number}.log"
        if version.form == "gguf":
            return llama_server.serving(
                served,
                alias=_model(record),
                log=log_file,
                context=version.context,
                slots=self.slots,
                threads=len(os.sched_getaffinity(0)),
            )
        prepared = folder / "prepare" / TEMPLATE
        template = prepared if prepared.exists() else None
        recipe = Recipe.model_validate_json((folder / RECIPE).read_text())
        if version.form == "adapter":
            return self._loaded(record, recipe, served, template, log_file)
        return vllm_server.serving(
            served,
            alias=_model(record),
            log=log_file,
            context=version.context,
            template=template,
            parser=parser_of(recipe),
        )

    @contextlib.contextmanager
    def _loaded(
        self, record: Promoted, recipe: Recipe, adapter: Path, template: Path | None, log_file: Path
    ) -> Iterator[Server]:
        """The adapter in its base's vLLM, until the block ends; the vLLM itself stays up for the others."""
        base = open_base(recipe).path
        shared = self._shared.get(base)
        if shared is None or shared[0].process.poll() is not None:
            stack, first = ExitStack(), {_model(record): adapter}
            server = stack.enter_context(
                vllm_server.serving(
                    base,
                    alias=base.name,
                    log=log_file,
                    context=record.current.context,
                    template=template,
                    parser=parser_of(recipe),
                    adapters=first,
                )
            )
            self._shared[base] = server, stack
        else:
            server = shared[0]
            vllm_server.load_adapter(server, _model(record), adapter)
        try:
            yield server
        finally:
            vllm_server.unload_adapter(server, _model(record))


def parser_of(recipe: Recipe) -> str:
    """vLLM's parser for the calls that a model on this base writes: the registry's, or else its family's."""
    key = registry().find(recipe.base)
    if key and (known := registry().models[key].tool_parser):
        return known
    return vllm_server.LLAMA_4 if shape_of_base(recipe).family.startswith("llama4") else "llama3_json"


def _model(record: Promoted) -> str:
    """A version's name in its engine: two versions of one name may be up at once."""
    return f"{record.name}-{record.current.number}"
