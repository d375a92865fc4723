"""What a container has to have installed, read from what our modules import; and what its image's layers bring."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from tuneline.core.paths import ROOT

BUILT = {"conversion", "gguf", "llama_cpp", "llmcompressor", "optimum"}
"""Made in the image: llama.cpp's own source, and the environments of llmcompressor and optimum."""
EXTRAS = {"flash_attn", "inspect_ai", "lm_eval", "openpyxl", "presidio_analyzer", "spacy", "vllm"}
"""Not in every image, and asked for before they are imported; vLLM is by what it loads itself."""
OF_PROVIDERS = {"genai_prices", "litellm"}
"""Imported in functions that only `endpoints.llm_providers` calls, which no Function of app.py does."""


ONLY_IN_IMAGES = {"kernels", "vllm"}
"""Not installed here, so that their distributions cannot say which modules they bring."""


def needed(*places: str) -> set[str]:
    """Packages that the modules in these folders and files import, in functions too, and those they import at once.

    A module that is not among them counts with what it imports when it is imported; a direct neighbour's functions
    count too, as they are what is called.
    """
    own = {file for place in places for file in [ROOT / place, *(ROOT / place).rglob("*.py")] if file.suffix == ".py"}
    neighbours = {file for one in own for name in _names(ast.walk(_tree(one))) for file in _files(name)[-1:]}
    packages, seen, waiting = set[str](), set[Path](), [*own, *neighbours]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _names(ast.walk(_tree(file)) if file in own or file in neighbours else _tree(file).body):
            waiting += _files(name)
            packages |= {name.partition(".")[0]} - {"tuneline"} - sys.stdlib_module_names
    return packages - BUILT - EXTRAS - OF_PROVIDERS - {"modal"}  # Modal brings its own client


def installed(layers: Iterable[str]) -> set[str]:
    """Import names of the packages that the locks in an image list; all they require is listed, too."""
    locked = {_plain(name) for layer in layers for name in re.findall(r"(?m)^([A-Za-z0-9_.-]+)==[\d.]", layer)}
    brought_here = _brought_here().items()
    # What only images have is not installed here: it brings the module of its own name.
    return {module for module, names in brought_here if locked & {*map(_plain, names)}} | (locked & {*ONLY_IN_IMAGES})


@cache
def _brought_here() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str) -> list[Path]:
    """Of a dotted name: the packages' `__init__`, and the module itself last."""
    parts, found = name.split("."), list[Path]()
    if parts[0] == "tuneline":
        for end in range(2, len(parts) + 1):
            place = ROOT.joinpath(*parts[1:end])
            found += [f for f in (place / "__init__.py", place.with_suffix(".py")) if f.exists()]
    return found
