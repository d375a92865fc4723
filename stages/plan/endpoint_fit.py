"""Whether the endpoint of `configs/cloud.yaml` can serve a model beside what it serves: its GPU is one for all."""

from tuneline.configs.cloud import Endpoint
from tuneline.configs.hardware import hardware
from tuneline.configs.models import Shape, registry
from tuneline.configs.recipe import Recipe

WORKSPACE = 0.1
"""Of the weights, beside them: what a vLLM needs for activations, and for the KV cache of a few requests."""


def find_endpoint_problems(recipe: Recipe, endpoint: Endpoint, shape: Shape) -> tuple[str, ...]:
    """Return why the endpoint could not serve what this recipe makes; empty if it could, or serves another form."""
    if recipe.serve.form != endpoint.form or endpoint.form == "gguf":
        return ()
    if problem := explain_other_base(recipe, endpoint):
        return (problem,)
    problem = explain_too_little_memory(2 * shape.total, endpoint)
    return (problem,) if problem else ()


def explain_other_base(recipe: Recipe, endpoint: Endpoint) -> str | None:
    """Return the reason if the endpoint serves adapters of another base: a second base has no room on its GPU."""
    if endpoint.form != "adapter" or not endpoint.base:
        return None
    name, _, revision = endpoint.base.partition("@")
    if _hub_id(recipe.base) == _hub_id(name) and (not revision or revision == recipe.revision):
        return None
    return (
        f"base: {recipe.base}@{recipe.revision}: the endpoint serves adapters of {endpoint.base} (endpoint.base in "
        "configs/cloud.yaml), and a second base does not fit its GPU"
    )


def explain_too_little_memory(weights_bytes: float, endpoint: Endpoint) -> str | None:
    """Return the reason if one of the endpoint's vLLMs does not hold so many bytes of weights in its share."""
    assert endpoint.gpu
    kind, count = hardware().parse_gpu(endpoint.gpu)
    share = endpoint.gpu_share * count * hardware().usable_bytes(kind)
    if weights_bytes * (1 + WORKSPACE) <= share:
        return None
    beside = (
        f": {endpoint.servers} vLLMs share it, one for each of {endpoint.models} (endpoint.models) and one for a new "
        "version"
        if endpoint.form == "merged"
        else ""
    )
    return (
        f"endpoint.gpu: {endpoint.gpu}: {weights_bytes / 1e9:.1f} GB of weights do not fit the {share / 1e9:.1f} GB "
        f"of a vLLM there{beside}; name a larger one in configs/cloud.yaml"
    )


def _hub_id(name: str) -> str:
    key = registry().find(name)
    return (registry().models[key].hub or key) if key else name
