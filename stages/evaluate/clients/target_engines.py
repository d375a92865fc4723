"""Starts the engine that serves each target: vLLM where the recipe serves with it, else llama.cpp.

With `serve.form: adapter` one vLLM answers for the base and for the adapter on it, as it does in serving.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuneline.configs.hardware import hardware
from tuneline.configs.recipe import Recipe
from tuneline.core.artifacts import SCRATCH
from tuneline.core.errors import StageFailed
from tuneline.core.machine import usable_cores
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.vllm.lora_ranks import smallest_max_lora_rank
from tuneline.engines.vllm.tool_parsers import tool_parser_for
from tuneline.engines.vllm.vllm_server import find_vllm, start_vllm
from tuneline.stages.evaluate.answers import CONCURRENCY
from tuneline.stages.evaluate.engine_versions import VLLM, engine_name
from tuneline.stages.evaluate.targets import BASE, REFERENCE
from tuneline.stages.prepare.prepared_run import TEMPLATE, request_fields
from tuneline.stages.run_artifacts import open_run_base

UNPARSABLE_STATUS = 500
"""Returned by llama-server when a model's text does not parse as its template's format: a wrong answer, no outage."""


@dataclass(frozen=True)
class Engine:
    """A running server, and how it is asked for one target."""

    base_url: str
    model: str
    body: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request."""
    unparsable_status: int | None = None
    """HTTP status that means the model's output did not parse, which is a wrong answer."""


def substitute_warning(recipe: Recipe) -> str | None:
    """Return a warning where llama.cpp answers for a model that vLLM serves, or None."""
    if recipe.serve.form == "gguf" or find_vllm():
        return None
    return (
        f"serve.form: {recipe.serve.form} is served by vLLM, which is not here (docs/vllm.md): "
        f"{BASE} and {REFERENCE} are asked through llama.cpp, as 16-bit files of the same weights"
    )


class Engines:
    """Starts the engine of one target after the other, and keeps it running while the next target uses the same."""

    def __init__(self, recipe: Recipe, run: Path, folder: Path) -> None:
        self._recipe, self._run, self._folder = recipe, run, folder
        self._stack, self._running, self._base_url = ExitStack(), "", ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, target: str, gguf: Path) -> Engine:
        """Return the running engine of `target`; llama.cpp serves the file `gguf`.

        Raises:
            NotFound: there is no such model.
            StageFailed: the engine does not start.
        """
        by_vllm = engine_name(self._recipe, target) == VLLM
        required = VLLM if by_vllm and self._recipe.serve.form == "adapter" else target
        if required != self._running:
            self._stack.close()
            self._running = ""
            self._base_url = self._start_vllm(target, required) if by_vllm else self._start_llama(target, gguf)
            self._running = required
        if not by_vllm:
            return Engine(self._base_url, target, {"cache_prompt": True}, UNPARSABLE_STATUS)
        return Engine(self._base_url, target, self._vllm_body(target))

    def _start_llama(self, target: str, gguf: Path) -> str:
        threads, context = self._recipe.compute.threads or usable_cores(), self._recipe.serve.context
        serving = start_llama_server(
            gguf, context=context, threads=threads, slots=CONCURRENCY, alias=target, log=self._log(target)
        )
        return self._stack.enter_context(serving).base_url

    def _start_vllm(self, target: str, name: str) -> str:
        recipe, base = self._recipe, open_run_base(self._recipe, self._run).path
        adapter = self._run / "train/adapter"
        is_merged = recipe.serve.form == "merged" and target == REFERENCE
        is_tuned = is_merged or recipe.serve.form == "adapter"
        model = self._run / "convert/merged" if is_merged else base
        if not model.exists():
            raise StageFailed(f"{model} was not made; write `convert: {{format: safetensors}}` and convert again")
        serving = start_vllm(
            model,
            alias=target if is_merged else BASE,
            log=self._log(name),
            context=recipe.serve.context,
            parser=tool_parser_for(recipe.base, model, self._template() if is_tuned else None),
            adapters={REFERENCE: adapter} if recipe.serve.form == "adapter" else None,
            rank=smallest_max_lora_rank(adapter) if recipe.serve.form == "adapter" else 0,
            gpus=self._gpus(),
        )
        return self._stack.enter_context(serving).base_url

    def _gpus(self) -> int:
        """Return the number of GPUs the recipe names, or those of this machine if they are fewer; at least 1."""
        gpu = self._recipe.compute.evaluate.gpu
        present = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return min(hardware().parse_gpu(gpu)[1] if gpu else 1, max(1, present))

    def _vllm_body(self, target: str) -> dict[str, Any]:
        # The tag of a tool call is a special token: without it, a call where no tools were sent would look like text.
        body = {"skip_special_tokens": False}
        return body | request_fields(self._run / "prepare") if target == REFERENCE else body

    def _template(self) -> str | None:
        """Return the tuned model's template, or None if it is the base's."""
        file = self._run / "prepare" / TEMPLATE
        return file.read_text("utf-8") if file.exists() else None

    def _log(self, name: str) -> Path:
        return self._folder / SCRATCH / f"{name}.log"
