"""The engine that serves, for one target after the other: vLLM where the recipe serves with it, else llama.cpp.

With `serve.form: adapter` one vLLM answers for the base and for the adapter on it, as it does when it serves.
"""

import os
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
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.vllm.lora_ranks import smallest_max_lora_rank
from tuneline.engines.vllm.tool_parsers import tool_parser_for
from tuneline.engines.vllm.vllm_server import find_vllm, start_vllm
from tuneline.stages.evaluate.clients.asking import CONCURRENCY
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare import TEMPLATE

BASE, REFERENCE = "base", "tuned-F16"
LLAMA, VLLM = "llama.cpp", "vLLM"
UNREADABLE = 500
"""llama-server's status when a model's text is not what its template promises: a wrong answer, not an outage."""


@dataclass(frozen=True)
class Engine:
    """A server, and how one target is asked there."""

    base_url: str
    model: str
    body: Mapping[str, Any] = field(default_factory=dict)
    """What every request has beside its own."""
    unreadable: int | None = None
    """A status that is a wrong answer."""


def engine_of(recipe: Recipe, target: str) -> str:
    """Which one answers for a target here: files are llama.cpp's; base and 16 bit are of whatever serves them."""
    by_vllm = recipe.serve.form != "gguf" and target in (BASE, REFERENCE)
    return VLLM if by_vllm and find_vllm() else LLAMA


def stands_in(recipe: Recipe) -> str | None:
    """What to tell where llama.cpp answers for a model that vLLM serves."""
    if recipe.serve.form == "gguf" or find_vllm():
        return None
    return (
        f"serve.form: {recipe.serve.form} is served by vLLM, which is not here (docs/vllm.md): "
        f"{BASE} and {REFERENCE} are asked through llama.cpp, as 16-bit files of the same weights"
    )


class Engines:
    """Starts what answers for a target and keeps it while the next is answered by the same."""

    def __init__(self, recipe: Recipe, run: Path, folder: Path) -> None:
        self._recipe, self._run, self._folder = recipe, run, folder
        self._stack, self._up, self._base_url = ExitStack(), "", ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def of(self, target: str, gguf: Path) -> Engine:
        """For `target`, whose file is `gguf` where llama.cpp answers.

        Raises:
            NotFound: there is no such model. StageFailed: it does not start.
        """
        vllm = engine_of(self._recipe, target) == VLLM
        wanted = VLLM if vllm and self._recipe.serve.form == "adapter" else target
        if wanted != self._up:
            self._stack.close()
            self._up = ""
            self._base_url = self._vllm(target, wanted) if vllm else self._llama(target, gguf)
            self._up = wanted
        if not vllm:
            return Engine(self._base_url, target, {"cache_prompt": True}, UNREADABLE)
        return Engine(self._base_url, target, self._shown(target))

    def _llama(self, target: str, gguf: Path) -> str:
        threads, context = self._recipe.compute.threads or len(os.sched_getaffinity(0)), self._recipe.serve.context
        serving = start_llama_server(
            gguf, context=context, threads=threads, slots=CONCURRENCY, alias=target, log=self._log(target)
        )
        return self._stack.enter_context(serving).base_url

    def _vllm(self, target: str, name: str) -> str:
        recipe, base = self._recipe, open_base(self._recipe).path
        adapter = self._run / "train/adapter"
        own = recipe.serve.form == "merged" and target == REFERENCE
        model = self._run / "convert/merged" if own else base
        if not model.exists():
            raise StageFailed(f"{model} was not made; write `convert: {{format: safetensors}}` and convert again")
        serving = start_vllm(
            model,
            alias=target if own else BASE,
            log=self._log(name),
            context=recipe.serve.context,
            parser=tool_parser_for(recipe.base, base),
            adapters={REFERENCE: adapter} if recipe.serve.form == "adapter" else None,
            rank=smallest_max_lora_rank(adapter) if recipe.serve.form == "adapter" else 0,
            gpus=self._gpus(),
        )
        return self._stack.enter_context(serving).base_url

    def _gpus(self) -> int:
        wanted = self._recipe.compute.evaluate.gpu
        here = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return min(hardware().parse_gpu(wanted)[1] if wanted else 1, max(1, here))

    def _shown(self, target: str) -> dict[str, Any]:
        """A call's tag is a special token: without it a call where none was offered could not be told from words."""
        template = self._run / "prepare" / TEMPLATE
        own = target == REFERENCE and template.exists()
        return {"skip_special_tokens": False} | ({"chat_template": template.read_text("utf-8")} if own else {})

    def _log(self, name: str) -> Path:
        return self._folder / SCRATCH / f"{name}.log"
