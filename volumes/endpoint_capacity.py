"""Whether the deployed endpoint can serve a run that is to be promoted, asked before it is."""

from tuneline.configs.cloud import Endpoint
from tuneline.configs.recipe import recipe_of
from tuneline.core import paths
from tuneline.core.artifacts import is_finished
from tuneline.core.errors import BadRequest
from tuneline.endpoints.promotion import read_promotions
from tuneline.stages.convert.task import MERGED
from tuneline.stages.plan.endpoint_fit import explain_other_base, explain_too_little_memory
from tuneline.stages.run_artifacts import open_stage

WEIGHTS = ".safetensors"


def refuse_unless_endpoint_fits(endpoint: Endpoint, run: str, name: str) -> None:
    """Refuse a run that the endpoint cannot serve: another form, adapters of another base, one more merged model.

    Raises:
        BadRequest: nobody would answer for it.
    """
    folder = paths.run_folder(run)
    if not is_finished(folder / "convert"):
        return  # `promote` says what is missing
    recipe = recipe_of(folder)
    if recipe.serve.form != endpoint.form:
        forms = f"serve.form is {recipe.serve.form}, and the deployed endpoint serves {endpoint.form}"
        raise BadRequest(
            f"{run}: {forms} (endpoint.form in configs/cloud.yaml): change one of them, then "
            "`tuneline deploy`, or convert and evaluate the run again"
        )
    if endpoint.form == "gguf":
        return
    problem = explain_other_base(recipe, endpoint)
    if endpoint.form == "merged":
        manifest = open_stage(folder, "convert").manifest
        shards = [file for file in manifest.files_below(MERGED) if file.endswith(WEIGHTS)]
        weights = sum(manifest.files[shard].bytes for shard in shards)
        problem = _explain_too_many(endpoint, name) or explain_too_little_memory(weights, endpoint)
    if problem:
        raise BadRequest(f"{run}: {problem}")


def _explain_too_many(endpoint: Endpoint, name: str) -> str | None:
    """Return the reason if `name` would be one more than the endpoint's GPU is shared out for."""
    names = {name} | {other for other, p in read_promotions().items() if p.current.form == "merged"}
    if len(names) <= endpoint.models:
        return None
    return (
        f"{', '.join(sorted(names))}: endpoint.models in configs/cloud.yaml is {endpoint.models}: each merged model "
        "has a vLLM of its own, and a share of the GPU"
    )
