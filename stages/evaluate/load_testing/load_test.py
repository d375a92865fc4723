"""`tuneline load`: a load test of a run's model or of any endpoint, with its price."""

from pathlib import Path

from tuneline.configs.cloud import cloud
from tuneline.configs.hardware import hardware
from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core.errors import BadRequest
from tuneline.core.machine import describe_machine
from tuneline.core.paths import ROOT
from tuneline.core.spending import read_usd_per_hour
from tuneline.engines.listed_models import find_only_model
from tuneline.engines.own_key import own_key
from tuneline.engines.server import Server
from tuneline.stages.evaluate.engine_versions import describe_engine, format_engine
from tuneline.stages.evaluate.load_testing.guidellm import LoadResult, Requests, send_load, write_load_result
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.suites.suite_requests import suite_requests
from tuneline.stages.evaluate.targets import hash_served_files, served_path, served_target
from tuneline.stages.prepare.prepared_run import load_tools
from tuneline.stages.run_artifacts import open_stage

DEFAULT_REQUESTS = ROOT / "data/requests/test.yaml"
"""Grammar of the requests sent to an endpoint without a run."""
DEFAULT_ROWS = 64


def load_test(
    url: str | None,
    run: Path | None,
    server: Server | None,
    *,
    rate: float,
    seconds: float,
    gpu: str | None = None,
    usd_per_hour: float | None = None,
    model: str | None = None,
) -> LoadResult:
    """Load `server`, or what answers at `url`, and return what was measured.

    With a run, the requests are those of its suites, and the result is written where its gate reads it. The cost is
    that of the machine that answered: `usd_per_hour`, or the price of the `gpu` on which the server at `url` runs.

    Raises:
        NotFound: guidellm is not installed, or nothing answers at `url`.
        BadRequest: `gpu` is given for a server on this machine, or `url` has several models and `model` names none.
        BadRecipe: there is no such GPU.
        StaleArtifact: the run's files are not those that it was made from.
        StageFailed: no request was answered.
    """
    recipe = recipe_of(run) if run else None
    hardware_name, usd_per_hour = _price_machine(url, gpu, usd_per_hour)
    files = _hash_files(run, recipe, url) if run and recipe else {}
    base_url = url or (server.base_url if server else "")
    catalogue = load_tools(open_stage(run, "prepare").path) if run else None
    requests = Requests(
        base_url,
        model or (run.name if run and not url else find_only_model(base_url)),
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
        files=files,
        engine=None if url or not (run and recipe) else _name_engine(run, recipe),
    )
    if run:
        write_load_result(run, result)
    return result


def _prompts(recipe: Recipe | None) -> list[str]:
    if recipe and (texts := [item.text for suite in recipe.evaluate.suites for item in make_items(suite)]):
        return texts
    return [request.text for request in suite_requests(DEFAULT_REQUESTS, DEFAULT_ROWS, 1)]


def _hash_files(run: Path, recipe: Recipe, url: str | None) -> dict[str, str]:
    """Return path → SHA-256 of what is loaded: what the run serves, or what `tuneline serve` serves of it here."""
    serve = recipe.serve if url else recipe.serve.model_copy(update={"form": "gguf"})
    return hash_served_files(run, serve)


def _name_engine(run: Path, recipe: Recipe) -> str:
    """Return what serves the run's GGUF file here."""
    serve = recipe.serve.model_copy(update={"form": "gguf"})
    served_here = recipe.model_copy(update={"serve": serve})
    return format_engine(describe_engine(served_here, served_target(served_here), run / served_path(serve)))


def _price_machine(url: str | None, gpu: str | None, usd_per_hour: float | None) -> tuple[str | None, float | None]:
    """Return the name and the USD per hour of the machine that answers; None for what nobody has said.

    One machine's requests a second are never divided into another one's price.
    """
    if url is None:
        if gpu:
            raise BadRequest(
                f"--gpu {gpu}: the model is served on this machine; load a server on that hardware (`tuneline load URL "
                "--for RUN`), or give this machine's price with --usd-per-hour"
            )
        return str(describe_machine()), read_usd_per_hour() if usd_per_hour is None else usd_per_hour
    if gpu is None:
        return None, usd_per_hour
    container = cloud().endpoint
    price = 3600 * hardware().usd_per_second(gpu, container.cores, container.memory_gib)
    name = f"{gpu}, {container.cores:g} cores and {container.memory_gib:g} GiB on Modal"
    return name, price if usd_per_hour is None else usd_per_hour
