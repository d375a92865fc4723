"""Starts the engine of a promoted version by its serving form: llama-server, or a vLLM.

Adapters of one base share a vLLM: the first starts it, the others are loaded into it while it runs.
"""

import contextlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core import paths
from tuneline.core.errors import StageFailed
from tuneline.core.machine import usable_cores
from tuneline.endpoints.promotion import Promotion, Version, engine_name, open_promoted_run
from tuneline.endpoints.served_files import open_promoted_base
from tuneline.engines.control_tokens import ControlTokens, read_gguf_tokens, read_tokenizer_tokens
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.server import Server
from tuneline.engines.vllm.tool_parsers import tool_parser_for
from tuneline.engines.vllm.vllm_server import load_adapter, start_vllm, unload_adapter
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare.prepared_run import request_fields


@dataclass
class _SharedServer:
    """The vLLM of a base, shared by all its adapters."""

    server: Server
    stack: ExitStack
    context: int


class EngineStarter:
    """Starts engines of one size."""

    def __init__(self, slots: int, gpus: int, threads: int | None, logs: Path, *, maps_files: bool) -> None:
        self._slots, self._gpus, self._threads = slots, gpus, threads or usable_cores()
        self._logs, self._maps_files = logs, maps_files
        self._shared: dict[Path, _SharedServer] = {}
        """By the base's folder."""

    @property
    def threads(self) -> int:
        """Threads of each llama-server."""
        return self._threads

    def close_shared(self, server: Server | None = None) -> None:
        """Stop the vLLM that is `server`, or all that adapters share."""
        for base, shared in list(self._shared.items()):
            if server is None or shared.server is server:
                self._shared.pop(base).stack.close()

    def serving(self, promotion: Promotion, versions: Collection[Version]) -> AbstractContextManager[Server]:
        """Return the context in which the current version is served; `versions` are all that are to be served now.

        Raises:
            StageFailed: the run's files are not those that were promoted.
        """
        version = promotion.current
        model = open_promoted_run(promotion) / version.file
        log_file = self._logs / f"{promotion.name}-{version.number}.log"
        if version.form == "gguf":
            return start_llama_server(
                model,
                alias=engine_name(promotion),
                log=log_file,
                context=version.context,
                slots=self._slots,
                threads=self._threads,
                maps_file=self._maps_files,
            )
        recipe = _recipe(version)
        if version.form == "adapter":
            return self._serving_adapter(promotion, versions, recipe, model, log_file)
        return start_vllm(
            model,
            alias=engine_name(promotion),
            log=log_file,
            context=version.context,
            parser=tool_parser_for(recipe.base, model),
            gpus=self._gpus,
        )

    @contextlib.contextmanager
    def _serving_adapter(
        self, promotion: Promotion, versions: Collection[Version], recipe: Recipe, adapter: Path, log_file: Path
    ) -> Iterator[Server]:
        """Load the adapter into its base's vLLM until the block ends; the vLLM stays up for other adapters."""
        version = promotion.current
        base = open_promoted_base(paths.run_folder(version.run), recipe, promotion.name, version.base)
        shared = self._shared.get(base)
        if shared and shared.server.process.poll() is not None:
            self._shared.pop(base).stack.close()
            shared = None
        if shared is None:
            shared = self._shared[base] = self._start_shared(promotion, versions, recipe, base, adapter, log_file)
        elif promotion.current.context > shared.context:
            raise StageFailed(
                f"serve.context: {promotion.current.context} is more than {shared.context}, with which the vLLM of "
                f"{base.name} was started; restart the endpoint"
            )
        else:
            load_adapter(shared.server, engine_name(promotion), adapter)
        try:
            yield shared.server
        finally:
            unload_adapter(shared.server, engine_name(promotion))

    def _start_shared(
        self,
        promotion: Promotion,
        versions: Collection[Version],
        recipe: Recipe,
        base: Path,
        adapter: Path,
        log_file: Path,
    ) -> _SharedServer:
        """Start a vLLM for a base with its first adapter, and with the longest context of the base's versions."""
        context = max([promotion.current.context, *(v.context for v in versions if _adapter_base(v) == base)])
        stack = ExitStack()
        server = stack.enter_context(
            start_vllm(
                base,
                alias=base.name,
                log=log_file,
                context=context,
                parser=tool_parser_for(recipe.base, base, read_request_fields(promotion.current).get("chat_template")),
                adapters={engine_name(promotion): adapter},
                gpus=self._gpus,
            )
        )
        return _SharedServer(server, stack, context)


def _recipe(version: Version) -> Recipe:
    return recipe_of(paths.run_folder(version.run))


def _adapter_base(version: Version) -> Path | None:
    """Return the folder of an adapter's base, or None for the other forms."""
    return open_base(_recipe(version)).path if version.form == "adapter" else None


def read_request_fields(version: Version) -> dict[str, Any]:
    """Return the fields that requests to an adapter need; files of other forms include what they say."""
    return request_fields(paths.run_folder(version.run) / "prepare") if version.form == "adapter" else {}


def read_control_tokens(version: Version) -> ControlTokens:
    """Return the control tokens of the tokenizer that a version answers with.

    Raises:
        StageFailed: they cannot be read.
    """
    model = paths.run_folder(version.run) / version.file
    if version.form == "gguf":
        return read_gguf_tokens(model)
    template = read_request_fields(version).get("chat_template")
    return read_tokenizer_tokens(_adapter_base(version) or model, template)
