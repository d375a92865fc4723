"""The engines behind the gateway: one for each promoted version, started by its serving form.

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
from tuneline.core import paths
from tuneline.core.errors import NotFound, StageFailed, TunelineError
from tuneline.endpoints.promotion import Promotion, Version, open_promoted_run, read_promotions
from tuneline.endpoints.tool_selection import ToolSelector, load_tool_selector
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.server import Server
from tuneline.engines.vllm.tool_parsers import tool_parser_for
from tuneline.engines.vllm.vllm_server import load_adapter, start_vllm, unload_adapter
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare.prepared_run import TEMPLATE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upstream:
    """Where a request for a promoted model goes, and what it needs there."""

    base_url: str | None
    """None while the name's first version starts."""
    fields: dict[str, str]
    """What replaces fields of the request's body: the engine's name of the model, and the template if it needs one."""
    tool_selector: ToolSelector | None = None


@dataclass
class _Running:
    version: Version
    server: Server
    stack: ExitStack
    model: str
    """Its name in the engine."""
    tool_selector: ToolSelector | None
    """None if its run was prepared without a preselector."""
    template: str | None
    """Chat template to send with each request: adapters of one base may have learned with different ones."""


@dataclass
class _SharedServer:
    """The vLLM of a base, shared by all its adapters."""

    server: Server
    stack: ExitStack
    context: int


class EnginePool:
    """Keeps an engine running for everything promoted in one of `forms`."""

    def __init__(self, forms: tuple[str, ...], slots: int = 4, gpus: int = 1) -> None:
        self.forms, self.slots, self.gpus = forms, slots, gpus
        self._promotions: dict[str, Promotion] | None = None
        """By name; None until the policy was read."""
        self._running: dict[str, _Running] = {}
        """By promoted name."""
        self._shared: dict[Path, _SharedServer] = {}
        """By the base's folder."""
        self._logs = Path(tempfile.mkdtemp(prefix="tuneline-engines-"))

    @property
    def ready(self) -> bool:
        """Whether every promoted name's current version is running; False until the policy was read."""
        return self._promotions is not None and all(state == "ready" for state in self.states().values())

    def states(self) -> dict[str, str]:
        """Return promoted name → `ready` or `starting`."""
        return {name: "ready" if self._is_current(name) else "starting" for name in self._promotions or ()}

    def resolve(self, name: str) -> Upstream:
        """Return where requests for a promoted name go.

        Raises:
            NotFound: nothing is promoted under that name.
        """
        if running := self._running.get(name):
            template = {"chat_template": running.template} if running.template else {}
            return Upstream(running.server.base_url, {"model": running.model} | template, running.tool_selector)
        if self._promotions is None or name in self._promotions:
            return Upstream(None, {"model": name})
        names = ", ".join(self._promotions) or "none yet; `tuneline promote RUN --as NAME` adds one"
        raise NotFound(f"{name}: not served here; there are {names}")

    def update(self) -> None:
        """Read the promotions, start what is new, then stop what it replaces; an engine that died is started again.

        Raises:
            StageFailed: an engine does not start. The version before it continues to serve.
        """
        promotions = {name: p for name, p in read_promotions().items() if p.current.form in self.forms}
        self._promotions = promotions
        for name in set(self._running) - set(promotions):
            self._running.pop(name).stack.close()
        failures = []
        for name, promotion in promotions.items():
            try:
                self._ensure_current(name, promotion)
            except TunelineError as error:  # the others are started all the same
                failures.append(f"{name}: {error}")
        if failures:
            raise StageFailed("\n".join(failures))

    def stop(self) -> None:
        """Stop all engines."""
        while self._running:
            self._running.popitem()[1].stack.close()
        while self._shared:
            self._shared.popitem()[1].stack.close()
        shutil.rmtree(self._logs, ignore_errors=True)

    def _is_current(self, name: str) -> bool:
        running, promotions = self._running.get(name), self._promotions or {}
        return running is not None and running.version == promotions[name].current

    def _ensure_current(self, name: str, promotion: Promotion) -> None:
        """Start the current version of a name unless it runs, then stop the one before it."""
        previous, version = self._running.get(name), promotion.current
        if previous and previous.version == version and previous.server.process.poll() is None:
            return
        stack, tool_selector = ExitStack(), load_tool_selector(paths.run_folder(version.run))
        server = stack.enter_context(self._serving(promotion))
        model, template = _engine_name(promotion), _template(version)
        self._running[name] = _Running(version, server, stack, model, tool_selector, template)
        log.info("%s: version %d (%s) answers", name, version.number, version.run)
        if previous:
            previous.stack.close()

    def _serving(self, promotion: Promotion) -> AbstractContextManager[Server]:
        """Return the context in which the current version is served.

        Raises:
            StageFailed: the run's files are not those that were promoted.
        """
        version = promotion.current
        model = open_promoted_run(promotion) / version.file
        log_file = self._logs / f"{promotion.name}-{version.number}.log"
        if version.form == "gguf":
            return start_llama_server(
                model,
                alias=_engine_name(promotion),
                log=log_file,
                context=version.context,
                slots=self.slots,
                threads=len(os.sched_getaffinity(0)),
            )
        recipe = _recipe(version)
        if version.form == "adapter":
            return self._serving_adapter(promotion, recipe, model, log_file)
        return start_vllm(
            model,
            alias=_engine_name(promotion),
            log=log_file,
            context=version.context,
            parser=tool_parser_for(recipe.base, model),
            gpus=self.gpus,
        )

    @contextlib.contextmanager
    def _serving_adapter(self, promotion: Promotion, recipe: Recipe, adapter: Path, log_file: Path) -> Iterator[Server]:
        """Load the adapter into its base's vLLM until the block ends; the vLLM stays up for other adapters."""
        base = open_base(recipe).path
        shared = self._shared.get(base)
        if shared and shared.server.process.poll() is not None:
            self._shared.pop(base).stack.close()
            shared = None
        if shared is None:
            shared = self._shared[base] = self._start_shared(promotion, recipe, base, adapter, log_file)
        elif promotion.current.context > shared.context:
            raise StageFailed(
                f"serve.context: {promotion.current.context} is more than {shared.context}, with which the vLLM of "
                f"{base.name} was started; start the endpoint anew"
            )
        else:
            load_adapter(shared.server, _engine_name(promotion), adapter)
        try:
            yield shared.server
        finally:
            unload_adapter(shared.server, _engine_name(promotion))

    def _start_shared(
        self, promotion: Promotion, recipe: Recipe, base: Path, adapter: Path, log_file: Path
    ) -> _SharedServer:
        """Start a vLLM for a base with its first adapter, and with the longest context of the base's versions."""
        versions = [p.current for p in (self._promotions or {}).values()]
        context = max([promotion.current.context, *(v.context for v in versions if _adapter_base(v) == base)])
        stack = ExitStack()
        server = stack.enter_context(
            start_vllm(
                base,
                alias=base.name,
                log=log_file,
                context=context,
                parser=tool_parser_for(recipe.base, base),
                adapters={_engine_name(promotion): adapter},
                gpus=self.gpus,
            )
        )
        return _SharedServer(server, stack, context)


def _recipe(version: Version) -> Recipe:
    return recipe_of(paths.run_folder(version.run))


def _adapter_base(version: Version) -> Path | None:
    """Return the folder of an adapter's base, or None for the other forms."""
    return open_base(_recipe(version)).path if version.form == "adapter" else None


def _template(version: Version) -> str | None:
    """Return the template an adapter learned with, or None if it is its base's; files of other forms include theirs."""
    file = paths.run_folder(version.run) / "prepare" / TEMPLATE
    return file.read_text("utf-8") if version.form == "adapter" and file.exists() else None


def _engine_name(promotion: Promotion) -> str:
    """Return the current version's model name in its engine: two versions of one name may run at once."""
    return f"{promotion.name}-{promotion.current.number}"
