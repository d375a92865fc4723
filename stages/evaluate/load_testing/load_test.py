"""`tuneline load`: a load test of a run's model or of any endpoint, with its price."""

import json
from pathlib import Path

from tuneline.configs.hardware import hardware
from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core import artifacts
from tuneline.core.errors import NotFound
from tuneline.core.paths import ROOT
from tuneline.core.web_requests import append_path, open_url
from tuneline.engines.own_key import own_key, own_key_remedy
from tuneline.engines.server import Server
from tuneline.stages.evaluate.load_testing.guidellm import LoadResult, Requests, send_load, write_load_result
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.suites.suite_requests import suite_requests
from tuneline.stages.prepare.prepared_run import load_tools

DEFAULT_REQUESTS = ROOT / "data/requests/test.yaml"
"""Grammar of the requests sent to an endpoint without a run."""
DEFAULT_ROWS = 64
MODELS_TIMEOUT_S = 30


def load_test(
    url: str | None, run: Path | None, server: Server | None, *, rate: float, seconds: float, gpu: str | None
) -> LoadResult:
    """Load `server`, or what answers at `url`, and return what was measured.

    With a run, the requests are those of its suites, and the result is written where its gate reads it.

    Raises:
        NotFound: guidellm is not installed, or nothing answers at `url`.
        BadRecipe: there is no such GPU.
        StageFailed: no request was answered.
    """
    recipe = recipe_of(run) if run else None
    hardware_name, usd_per_hour = _hardware(recipe, gpu)
    base_url = url or (server.base_url if server else "")
    catalogue = load_tools(run / "prepare") if run else None
    requests = Requests(
        base_url,
        run.name if run and not url else _first_model(base_url),
        _prompts(recipe),
        system=recipe.data.system if recipe else "",
        tools=catalogue.openai() if catalogue else (),
        key=own_key(base_url),
    )
    result = send_load(
        requests,
        rate=rate,
        seconds=seconds,
        process=server.process.pid if server else None,
        hardware=hardware_name,
        usd_per_hour=usd_per_hour,
        convert=artifacts.open_artifact(run / "convert").manifest.fingerprint if run else None,
    )
    if run:
        write_load_result(run, result)
    return result


def _prompts(recipe: Recipe | None) -> list[str]:
    if recipe and (texts := [item.text for suite in recipe.evaluate.suites for item in make_items(suite)]):
        return texts
    return [request.text for request in suite_requests(DEFAULT_REQUESTS, DEFAULT_ROWS, 1)]


def _hardware(recipe: Recipe | None, gpu: str | None) -> tuple[str | None, float | None]:
    """Return the name and the USD per hour of the hardware that a query's cost is computed for.

    It is `gpu`, or the recipe's hardware for evaluation, which runs the same engine.
    """
    compute = recipe.compute.evaluate if recipe else None
    if compute is None and gpu is None:
        return None, None
    kind = gpu or (compute.gpu if compute else None)
    cores, memory = (compute.cores, compute.memory_gib) if compute else (4.0, 32.0)
    name = f"{kind + ', ' if kind else ''}{cores:g} cores and {memory:g} GiB on Modal"
    return name, 3600 * hardware().usd_per_second(kind, cores, memory)


def _first_model(base_url: str) -> str:
    """Return the first model that an endpoint lists."""
    url, key = append_path(base_url, "models"), own_key(base_url)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with open_url(url, headers=headers, timeout_s=MODELS_TIMEOUT_S) as response:
            name: str = json.loads(response.read())["data"][0]["id"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        remedy = own_key_remedy(base_url) or "is the server up, and its key in TUNELINE_API_KEY?"
        raise NotFound(f"{url}: {error}; {remedy}") from None
    return name
