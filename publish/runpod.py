"""Target `runpod`: a serverless endpoint with RunPod's worker for vLLM, which fetches the model from `publish.hub`.

RunPod's API v2 (https://docs.runpod.io/api-reference-v2, openapi.json of August 2026): an endpoint is created whole and
deleted with its template. Names are not unique there, so an endpoint is looked for before it is created. It answers by
OpenAI's API; a first job wakes a worker, which downloads the model.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from tuneline.configs.publish import Form
from tuneline.core.errors import BadRecipe, BadRequest, StageFailed
from tuneline.engines.providers import Provider
from tuneline.publish.containers import Location, describe_server, form_of, model_name, to_worker_variables
from tuneline.publish.http_api import HttpApi
from tuneline.publish.run_files import list_files
from tuneline.publish.target import Publication, Question, Step, Values, hash_content

ENDPOINTS = "/v2/serverless"
WAKE_S = 3600.0
"""Longest start of the first worker: it downloads the image and the model."""
QUEUE_DELAY_S = 4
TIMEOUT_MS = 600_000
"""Longest request."""


def steps(publication: Publication) -> Sequence[Step]:
    """Return the endpoint's creation, and a first job, which wakes a worker.

    Raises:
        BadRecipe: `image` or the repository is missing, or the run has a chat template that the worker would not know.
    """
    address, body = publication.host.api, _make_request(publication)
    job = {"input": {"openai_route": "/v1/models"}}
    return [
        Step(
            key="create",
            shows=f"GET {address}{ENDPOINTS}; POST {address}{ENDPOINTS} if there is none of this name",
            content=hash_content(address, body),
            run=partial(_create, publication, body),
            body=body,
        ),
        Step(
            key="wake",
            shows=f"POST {publication.host.chat}/v2/{{endpoint}}/run, then GET …/status/{{job}} until it is done",
            content=hash_content(address, body),
            run=partial(_wake, publication, job),
            body=job,
        ),
    ]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of the endpoint, which ends its workers."""
    if "endpoint" not in values:
        return []
    path = f"{ENDPOINTS}/{values['endpoint']}"
    run = partial(_delete, publication, path)
    return [Step("delete", f"DELETE {publication.host.api}{path}", hash_content(path), run)]


def question(publication: Publication, values: Values) -> Question:
    """Return how the model is asked."""
    url = f"{publication.host.chat}/v2/{values['endpoint']}/openai/v1"
    provider = Provider("runpod", url, publication.host.key_variable)
    return Question(provider, model_name(publication), answers_of="tuned-F16", same_files=False)


def cost(publication: Publication) -> str:
    """Return what its workers cost at most.

    Raises:
        BadRequest: the price is not stated.
    """
    settings = publication.settings
    if settings.usd_per_gpu_hour is None:
        raise BadRequest(
            f"publish.runpod.usd_per_gpu_hour: state the price of a GPU of {settings.pool} from "
            f"{publication.host.prices}, so that a bound can be stated"
        )
    hourly = settings.usd_per_gpu_hour * settings.gpus * settings.workers
    return (
        f"{settings.workers} worker(s) of {settings.gpus} × {settings.pool} cost at most {hourly:.2f} USD per hour, "
        f"{24 * hourly:.2f} per day, as long as requests come; {settings.idle_seconds} s after the last one they stop; "
        "`--from runpod` deletes the endpoint"
    )


def _make_request(publication: Publication) -> dict[str, Any]:
    settings = publication.settings
    if not settings.image:
        raise BadRecipe(
            "publish.runpod.image: required: runpod/worker-v1-vllm:VERSION, of a release at "
            "https://github.com/runpod-workers/worker-vllm/releases"
        )
    server = describe_server(_with_vllm(publication), _location(publication))
    if server.files:
        raise BadRecipe(
            "publish.runpod.form: adapter: the run has a chat template of its own, which the worker cannot be given: "
            "publish it merged, where the template goes along"
        )
    variables = to_worker_variables(server.arguments)
    if settings.secret:
        variables["HF_TOKEN"] = f"{{{{ RUNPOD_SECRET_{settings.secret} }}}}"
    return {
        "name": _endpoint_name(publication, variables),
        "image": settings.image,
        "type": "QUEUE",
        "disk": settings.disk_gb,
        "env": variables,
        "gpu": {"pools": [settings.pool], "count": settings.gpus},
        "workers": {"min": 0, "max": settings.workers, "idleTimeout": settings.idle_seconds},
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": QUEUE_DELAY_S},
        "timeout": TIMEOUT_MS,
    }


def _with_vllm(publication: Publication) -> Publication:
    """Return the publication with a form that vLLM serves: the adapter, where the recipe serves a GGUF file."""
    if publication.settings.form or form_of(publication) != "gguf":
        return publication
    settings = publication.settings.model_copy(update={"form": "adapter"})
    return Publication(publication.run, publication.recipe, publication.target, settings, publication.host)


def _location(publication: Publication) -> Location:
    hub = publication.recipe.publish.hub
    if hub is None or not hub.repository:
        raise BadRecipe(
            "publish.hub.repository: required: workers fetch the model there; publish it with --to hub first"
        )
    base, revision = publication.recipe.base, publication.recipe.revision
    return Location(
        base=[base, *(("--revision", revision) if revision else ())],
        adapter=hub.repository,
        merged=hub.repository,
        gguf=[],
    )


def _endpoint_name(publication: Publication, variables: dict[str, str]) -> str:
    """Return a name for these weights and variables: an endpoint of this name serves this model."""
    form: Form = "merged" if form_of(_with_vllm(publication)) == "merged" else "adapter"
    hashes = [file.sha256 for file in list_files(publication.run, publication.recipe, form)]
    return f"{model_name(publication)}-{hash_content(hashes, variables)[:8]}"


def _create(publication: Publication, body: dict[str, Any], values: Values) -> Values:
    if values.get("name", body["name"]) != body["name"]:
        raise BadRequest(
            f"{publication.run.name}: {values['name']} is published to runpod, of other weights or settings; take it "
            f"back first: `tuneline publish {publication.run.name} --from runpod`"
        )
    api = HttpApi(publication.host)
    listed = api.request("GET", ENDPOINTS).json
    entries = listed.get("endpoints") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        raise StageFailed("RunPod: unexpected answer: no list `endpoints`; its interface may have changed")
    there = next((e for e in entries if isinstance(e, dict) and e.get("name") == body["name"]), None)
    answer = there or api.request("POST", ENDPOINTS, body).json
    return {"endpoint": api.read(answer, "id"), "name": body["name"]}


def _wake(publication: Publication, job: dict[str, Any], values: Values) -> None:
    host = publication.host.model_copy(update={"api": publication.host.chat})
    api, root = HttpApi(host), f"/v2/{values['endpoint']}"
    identity = api.read(api.request("POST", f"{root}/run", job).json, "id")
    api.wait_for(f"{root}/status/{identity}", partial(_is_done, api), WAKE_S)


def _is_done(api: HttpApi, answer: Any) -> bool:
    status = api.read(answer, "status")
    if status in ("FAILED", "CANCELLED", "TIMED_OUT"):
        reason = str(answer.get("error", "no reason given"))[:300]
        raise StageFailed(f"RunPod: the first job ended with {status}: {reason}; its worker's log is in the console")
    return status == "COMPLETED"


def _delete(publication: Publication, path: str, _: Values) -> None:
    HttpApi(publication.host).request("DELETE", path, allow=(404,))
