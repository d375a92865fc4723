"""What a container has to have installed, read from what our modules import; and what its image's layers bring."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tuneline.core.paths import ROOT
from tuneline.images.pins import ONLY_IN_IMAGES

BUILT = {"conversion", "gguf", "llama_cpp", "llmcompressor", "optimum"}
"""Made in the image: llama.cpp's own source, and the environments of llmcompressor and optimum."""
EXTRAS = {"inspect_ai", "lm_eval", "presidio_analyzer", "spacy", "vllm"}
"""Not in every image, and asked for before they are imported; vLLM is by what it loads itself."""
VLLM = "torch transformers fastapi openai pydantic pyyaml numpy psutil huggingface-hub safetensors tokenizers jinja2"
"""Of what vLLM 0.32 itself asks for (its requirements/common.txt): it needs a GPU, so that it is not installed here."""


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
    return packages - BUILT - EXTRAS - {"modal"}  # Modal brings its own client


def installed(layers: Iterable[str]) -> set[str]:
    """Import names that the packages of `pip install` layers bring, with all that they require."""
    asked = {found for layer in layers for found in re.findall(r"([A-Za-z0-9_.-]+)==[\d.]", layer)}
    brought = set[str]()
    for name in asked | (set(VLLM.split()) if "vllm" in asked else set()):
        brought |= _closure(_plain(name))
    brought_here = metadata.packages_distributions().items()
    # What only images have is not installed here: it brings the module of its own name.
    return {module for module, dists in brought_here if brought & {*map(_plain, dists)}} | (asked & {*ONLY_IN_IMAGES})


@cache
def _closure(name: str) -> frozenset[str]:
    found, waiting = set[str](), [name]
    while waiting:
        if (one := waiting.pop()) in found:
            continue
        found.add(one)
        try:
            wanted = [Requirement(line) for line in metadata.requires(one) or ()]
        except metadata.PackageNotFoundError:
            continue
        waiting += [_plain(each.name) for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]
    return frozenset(found)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


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
