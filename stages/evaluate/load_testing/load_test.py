"""The load test of a run's model or of any endpoint: what is asked, at what price, and where it is kept."""

import json
import os
import urllib.request
from pathlib import Path

from tuneline.configs.hardware import hardware
from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core import artifacts
from tuneline.core.errors import NotFound
from tuneline.core.paths import ROOT
from tuneline.engines.server import Server
from tuneline.stages.evaluate.load_testing.guidellm import Load, load, write_load
from tuneline.stages.evaluate.suites.items import make_items
from tuneline.stages.evaluate.suites.suite_requests import suite_requests
from tuneline.stages.prepare import load_tools

USUAL = ROOT / "data/requests/test.yaml"
"""Asked of an endpoint that is no run's."""
USUAL_ROWS = 64


def load_test(
    url: str | None, run: Path | None, server: Server | None, *, rate: float, seconds: float, gpu: str | None
) -> Load:
    """Loads `server`, or what answers at `url`; with a run, the requests are its suites' and its gate can read it.

    Raises:
        NotFound: guidellm is not installed, or nothing answers at `url`. BadRecipe: no such GPU.
        StageFailed: no request was answered.
    """
    recipe = recipe_of(run) if run else None
    where, price = _hardware(recipe, gpu)
    base_url = url or (server.base_url if server else "")
    catalogue = load_tools(run / "prepare") if run else None
    key = os.environ.get("TUNELINE_API_KEY")
    found = load(
        base_url,
        run.name if run and not url else _model(base_url, key),
        _prompts(recipe),
        rate=rate,
        seconds=seconds,
        system=recipe.data.system if recipe else "",
        tools=catalogue.openai() if catalogue else (),
        key=key,
        process=server.process.pid if server else None,
        hardware=where,
        usd_per_hour=price,
        convert=artifacts.open_artifact(run / "convert").manifest.fingerprint if run else None,
    )
    if run:
        write_load(run, found)
    return found


def _prompts(recipe: Recipe | None) -> list[str]:
    if recipe and (found := [item.text for suite in recipe.evaluate.suites for item in make_items(suite)]):
        return found
    return [request.text for request in suite_requests(USUAL, USUAL_ROWS, 1)]


def _hardware(recipe: Recipe | None, gpu: str | None) -> tuple[str | None, float | None]:
    """What a query's cost is told for: the recipe's hardware of evaluation, which is the same engine, or a GPU."""
    place = recipe.compute.evaluate if recipe else None
    if place is None and gpu is None:
        return None, None
    kind = gpu or (place.gpu if place else None)
    cores, memory = (place.cores, place.memory_gib) if place else (4.0, 32.0)
    name = f"{kind + ', ' if kind else ''}{cores:g} cores and {memory:g} GiB on Modal"
    return name, 3600 * hardware().usd_per_second(kind, cores, memory)


def _model(base_url: str, key: str | None) -> str:
    """The first model an endpoint has."""
    request = urllib.request.Request(f"{base_url}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            name: str = json.loads(answer.read())["data"][0]["id"]
    except (OSError, ValueError, LookupError) as error:
        raise NotFound(f"{base_url}/models: {error}; is the server up, and its key in TUNELINE_API_KEY?") from None
    return name
