"""Which engine answers for a target on this machine, and how it is named beside what was measured."""

from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.core.machine import usable_cores
from tuneline.engines.llama_cpp.build import VERSION
from tuneline.engines.llama_cpp.threads import limit_threads
from tuneline.engines.vllm.vllm_server import find_vllm, vllm_version
from tuneline.stages.evaluate.targets import BASE, REFERENCE

LLAMA, VLLM = "llama.cpp", "vLLM"


def engine_name(recipe: Recipe, target: str) -> str:
    """Return the engine that answers for a target on this machine.

    Quantized files are llama.cpp's; base and 16 bit are vLLM's where the recipe serves with it and it is installed.
    """
    is_served_by_vllm = recipe.serve.form != "gguf" and target in (BASE, REFERENCE)
    return VLLM if is_served_by_vllm and find_vllm() else LLAMA


def describe_engine(recipe: Recipe, target: str, gguf: Path) -> dict[str, Any]:
    """Return `name`, `version` and `threads` of the engine that answers for a target here; 0 where it chooses them."""
    if engine_name(recipe, target) == VLLM:
        return {"name": VLLM, "version": vllm_version(), "threads": 0}
    threads = limit_threads(gguf, recipe.compute.threads or usable_cores())
    return {"name": LLAMA, "version": f"llama-cpp-python {VERSION}", "threads": threads}


def format_engine(engine: Any) -> str:
    """Return an engine as `describe_engine` describes it in words; older evaluations have its name alone."""
    if isinstance(engine, str):
        return f"{engine} of a version that was not recorded"
    threads = engine["threads"]
    counted = f" with {threads} thread{'' if threads == 1 else 's'}" if threads else ""
    return f"{engine['name']} ({engine['version']}){counted}"
