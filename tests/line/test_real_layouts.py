"""Repositories of the shape of the hub's real ones, at tiny width, from a hub to an evaluated model."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CACHE
from tests.hub_peer import COMMIT, Hub
from tests.line import small
from tests.line.layouts import LAYOUTS, make_repository
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import TunelineError
from tuneline.stages.line import run_line, subprocess_runner

pytestmark = pytest.mark.slow
TOKEN = "hf_of_a_licensee"
SUITE = {"name": "counts", "items": [{"ask": ["Ana has 3 figs. How many?"], "says": ["3"]}], "max_tokens": 8}


class LayoutHub(Hub):
    """A hub with one repository, which shows a gated one to the holder of a token alone."""

    def __init__(self, files: dict[str, bytes], *, gated: bool) -> None:
        super().__init__()
        self.content, self.gated = files, gated

    def files(self, repository: str) -> dict[str, bytes]:
        return self.content

    def answer(self, http: BaseHTTPRequestHandler, *, body: bool) -> None:
        if self.gated and http.headers["Authorization"] != f"Bearer {TOKEN}":
            self.head(http, 401, {"X-Error-Code": "GatedRepo", "Content-Length": "0"})
            return
        super().answer(http, body=body)


@pytest.fixture(params=LAYOUTS)
def layout_hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, LayoutHub]]:
    layout = LAYOUTS[request.param]
    hub = LayoutHub(make_repository(layout, tmp_path), gated=layout.gated)
    yield layout, hub
    hub.httpd.shutdown()


def test_a_repository_of_that_shape_becomes_an_evaluated_model(
    layout_hub: tuple[Any, LayoutHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, hub = layout_hub
    for name, value in {"CACHE": CACHE, "MODELS": str(tmp_path / "models"), "RUNS": str(tmp_path / "runs")}.items():
        monkeypatch.setenv(f"TUNELINE_{name}", value)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    settings = small.recipe(tmp_path, max_steps=2, save_steps=2, evaluate_steps=2).model_dump() | {
        "base": layout.repository,
        "revision": COMMIT,
        "template": layout.template,
        "convert": {"types": ["F16", "Q8_0"]},
        "serve": {"type": "Q8_0"},
        "evaluate": {"suites": [SUITE]},
    }
    recipe, run = Recipe.model_validate(settings), tmp_path / "runs" / "t"
    warnings: list[str] = []
    call = subprocess_runner(recipe, run, lambda event: warnings.append(str(event.get("text", ""))))
    if layout.gated:
        with pytest.raises(TunelineError, match="HF_TOKEN"):
            call("fetch")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    base = run_line(recipe, "evaluate", call)[0]
    assert not {*base.manifest.files} & {*layout.beside, "README.md"}
    assert (run / "evaluate/manifest.json").exists()
    checks = json.loads((run / "convert/verify.json").read_text())["checks"]
    assert checks and all(check["passed"] for check in checks), checks
