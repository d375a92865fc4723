"""Target `fireworks`: the adapter as a model of Fireworks AI, and with `deployment` on hardware of your own there.

https://docs.fireworks.ai/api-reference (models, deployments) and the types of `fireworks-ai` 1.2.30, read 2026-11-30.
An adapter is served by a dedicated deployment alone; a deployment of an adapter merges it into the base ("live merge").
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from tuneline.configs.publish import Deployment
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.formatting import format_bytes
from tuneline.engines.providers import Provider
from tuneline.publish.adapters import (
    ANSWERS_OF,
    base_at_host,
    explain_hourly_cost,
    list_adapter,
    name_version,
    read_account,
    read_settings,
    read_template,
    refuse_other_version,
)
from tuneline.publish.http_api import HttpApi
from tuneline.publish.run_files import RunFile
from tuneline.publish.target import Publication, Question, Step, Values, hash_content

READY_S, DEPLOYED_S = 1800.0, 3600.0
"""How long a model, and a deployment, are waited for."""
ALREADY = 409
LENGTH_RANGE = "x-goog-content-length-range"
"""A header that is part of an upload address's signature."""


def steps(publication: Publication) -> Sequence[Step]:
    """Return the model's creation, the upload of its files, and the deployment if the recipe has one.

    Raises:
        BadRecipe: the account or the base's name is not known.
    """
    files, root, model = list_adapter(publication), _root(publication), _model(publication)
    body = _model_body(publication, files)
    address = publication.host.api
    made = [
        Step("create", f"POST {address}{root}/models", hash_content(body), partial(_create, publication, body), body),
        *(_upload_step(publication, file, files) for file in files),
        Step(
            key="validate",
            shows=f"POST {address}{root}/models/{model}:validateUpload, then GET until the model is READY",
            content=hash_content([file.sha256 for file in files]),
            run=partial(_validate, publication),
            body={},
        ),
    ]
    deployment = publication.settings.deployment
    return made if deployment is None else [*made, *_deployment_steps(publication, deployment, files)]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of the deployment, if there is one, and of the model."""
    root = _root(publication)
    made = {"deployment": "deployments", "model": "models"}
    paths = [f"{root}/{kind}/{values[value]}" for value, kind in made.items() if value in values]
    return [
        Step(
            key=f"delete {path}",
            shows=f"DELETE {publication.host.api}{path}",
            content=hash_content(path),
            run=partial(_delete, publication, path),
        )
        for path in paths
    ]


def question(publication: Publication, values: Values) -> Question | None:
    """Return how the deployed model is asked; None without a deployment."""
    if "deployment" not in values:
        return None
    account = _account(publication)
    name = f"accounts/{account}/models/{values['model']}#accounts/{account}/deployments/{values['deployment']}"
    provider = Provider("fireworks", publication.host.chat, publication.host.key_variable)
    return Question(provider, name, answers_of=ANSWERS_OF, same_files=False)


def cost(publication: Publication) -> str:
    """Return what the deployment costs at most; empty without one."""
    return explain_hourly_cost(publication, publication.settings.deployment)


def _account(publication: Publication) -> str:
    return read_account("FIREWORKS_ACCOUNT_ID", publication.settings.account, "publish.fireworks.account")


def _root(publication: Publication) -> str:
    return f"/v1/accounts/{_account(publication)}"


def _model(publication: Publication) -> str:
    return name_version(publication, list_adapter(publication))


def _model_body(publication: Publication, files: list[RunFile]) -> dict[str, Any]:
    settings, template = read_settings(files), read_template(publication)
    modules = [module.rpartition(".")[2] for module in settings["target_modules"]]
    peft = {"baseModel": base_at_host(publication), "r": settings["r"], "targetModules": sorted(set(modules))}
    model: dict[str, Any] = {"kind": "HF_PEFT_ADDON", "peftDetails": peft, "public": False}
    if template:
        model["conversationConfig"] = {"style": "jinja", "template": template}
    return {"modelId": _model(publication), "model": model}


def _create(publication: Publication, body: dict[str, Any], values: Values) -> Values:
    refuse_other_version(publication, body["modelId"], values)
    HttpApi(publication.host).request("POST", f"{_root(publication)}/models", body, allow=(ALREADY,))
    return {"model": body["modelId"]}


def _upload_step(publication: Publication, file: RunFile, files: list[RunFile]) -> Step:
    path = f"{publication.host.api}{_root(publication)}/models/{_model(publication)}:getUploadEndpoint"
    return Step(
        key=f"upload {file.name}",
        shows=f"POST {path}, then PUT {file.name} ({format_bytes(file.bytes)}) to the address that it answers",
        content=hash_content(_model(publication), file.sha256),
        run=partial(_upload, publication, file, files),
        body=_sizes(files),
    )


def _sizes(files: list[RunFile]) -> dict[str, Any]:
    """Return the request for upload addresses; it is of all files, because Fireworks keeps those of the last one."""
    return {"filenameToSize": {file.name: str(file.bytes) for file in files}}


def _upload(publication: Publication, file: RunFile, files: list[RunFile], _: Values) -> None:
    api = HttpApi(publication.host)
    path = f"{_root(publication)}/models/{_model(publication)}:getUploadEndpoint"
    answer = api.request("POST", path, _sizes(files)).json
    address = api.read(answer, "filenameToSignedUrls", file.name)
    headers = {"Content-Type": "application/octet-stream", LENGTH_RANGE: f"{file.bytes},{file.bytes}"}
    api.upload("PUT", address, file.path, headers)


def _validate(publication: Publication, _: Values) -> None:
    api, path = HttpApi(publication.host), f"{_root(publication)}/models/{_model(publication)}"
    api.request("POST", f"{path}:validateUpload", {})
    api.wait_for(path, lambda model: api.read(model, "state") == "READY", READY_S)


def _deployment_steps(publication: Publication, deployment: Deployment, files: list[RunFile]) -> list[Step]:
    body = {
        "baseModel": f"accounts/{_account(publication)}/models/{_model(publication)}",
        "deploymentShape": "default",
        "minReplicaCount": 0,
        "maxReplicaCount": 1,
        "autoscalingPolicy": {"scaleToZeroWindow": f"{60 * deployment.idle_minutes}s"},
    }
    path = f"{_root(publication)}/deployments"
    content = hash_content(body, [file.sha256 for file in files])
    return [
        Step(
            key="check the hardware",
            shows=f"POST {publication.host.api}{path}, with validateOnly=true, whose answer may have at most "
            f"{deployment.gpus} × {deployment.gpu}",
            content=content,
            run=partial(_check_hardware, publication, deployment, body),
            body=body,
        ),
        Step(
            key="deploy",
            shows=f"POST {publication.host.api}{path}, then GET until the deployment is READY",
            content=content,
            run=partial(_deploy, publication, body),
            body=body,
        ),
    ]


def _check_hardware(publication: Publication, deployment: Deployment, body: dict[str, Any], _: Values) -> None:
    """Raise BadRequest if the deployment would take other or more hardware than the stated bound is for."""
    api = HttpApi(publication.host)
    answer = api.request("POST", f"{_root(publication)}/deployments", body, params={"validateOnly": "true"}).json
    kind, count = api.read(answer, "acceleratorType"), int(api.read(answer, "acceleratorCount"))
    if kind != deployment.gpu or count > deployment.gpus:
        raise BadRequest(
            f"publish.fireworks.deployment: it would take {count} × {kind}, not at most {deployment.gpus} × "
            f"{deployment.gpu}; state gpu, gpus and usd_per_gpu_hour of that"
        )


def _deploy(publication: Publication, body: dict[str, Any], values: Values) -> Values:
    api, path = HttpApi(publication.host), f"{_root(publication)}/deployments"
    deployment = values["model"]
    api.request("POST", path, body, params={"deploymentId": deployment}, allow=(ALREADY,))
    api.wait_for(f"{path}/{deployment}", partial(_is_deployed, api), DEPLOYED_S)
    return {"deployment": deployment}


def _is_deployed(api: HttpApi, answer: Any) -> bool:
    state = api.read(answer, "state")
    if state in ("FAILED", "DELETED", "DELETING"):
        raise StageFailed(f"Fireworks AI: the deployment is {state}: {str(answer.get('status'))[:200]}")
    return state == "READY"


def _delete(publication: Publication, path: str, _: Values) -> None:
    HttpApi(publication.host).request("DELETE", path, allow=(404,))
