"""The floors of docs/architecture.md: the contracts in pyproject.toml, and no circle between single files."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp

from tuneline.core.paths import ROOT


def test_imports_point_down() -> None:
    """`lint-imports` says which import breaks which contract."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for types count: they tie files as others do."""
    graph = grimp.build_graph("tuneline", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    assert not list(_circles(imports))


def _circles(imports: dict[str, set[str]]) -> Iterator[list[str]]:
    """Strongly connected components of more than one file (Tarjan, 1972)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> Iterator[list[str]]:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for imported in imports[module]:
            if imported not in index:
                yield from visit(imported)
            if imported in stack:
                lowest[module] = min(lowest[module], lowest[imported])
        if lowest[module] == index[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                yield sorted(component)

    for module in imports:
        if module not in index:
            yield from visit(module)
