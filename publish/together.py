"""Target `together`: the adapter as a model of Together AI, and with `deployment` on hardware of your own there.

Version 2 of its API, as in the types of `together` 3.1.1 and docs.together.ai/docs/dedicated-endpoints, read
2026-11-30; version 1 ends with 2026. Together fetches the files itself, from the hub or from an archive in S3; a
deployment of an adapter merges it into its base.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from tuneline.configs.publish import Deployment
from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import BadRecipe, BadRequest, NotFound, StageFailed
from tuneline.core.hash_cache import cached_sha256
from tuneline.engines.providers import Provider
from tuneline.publish.adapters import (
    ANSWERS_OF,
    archive_file,
    archive_step,
    explain_hourly_cost,
    list_adapter,
    name_version,
    read_account,
    refuse_other_version,
)
from tuneline.publish.http_api import HttpApi
from tuneline.publish.run_files import RunFile
from tuneline.publish.storage import sign_address, upload_file
from tuneline.publish.target import Publication, Question, Step, Values, hash_content

HUB = "https://huggingface.co"
HUB_KEY = "HF_TOKEN"
ALREADY = 409
SIGNED_S = 4 * 3600
"""How long the archive's address is valid; Together asks for 100 minutes at least."""
IMPORTED_S, DEPLOYED_S = 3600.0, 3600.0
"""How long an import, and a deployment, are waited for."""


def steps(publication: Publication) -> Sequence[Step]:
    """Return the model's creation, its import from hub or S3, and the deployment if the recipe has one.

    Raises:
        BadRecipe: the project, or the place to fetch the adapter from, is not stated.
    """
    files, root, address = list_adapter(publication), _root(publication), publication.host.api
    name, base = name_version(publication, files), publication.settings.base or publication.recipe.base
    body = {"name": name, "type": "adapter", "baseModelId": "{base}"}
    source = _source(publication, files)
    imported = {"modelId": "{id}", "remoteUrl": source, "token": f"${HUB_KEY}"}
    if publication.settings.source == "s3":
        imported = {"modelId": "{id}", "remoteUrl": f"{source}, signed for {SIGNED_S // 3600} hours"}
    content = hash_content(body, base, [file.sha256 for file in files], source)
    made = [
        *_archive_steps(publication, files),
        Step(
            key="find the base",
            shows=f"GET {address}/v2/supported-models, with search={base}",
            content=hash_content(base),
            run=partial(_find_base, publication, base),
        ),
        Step("create", f"POST {address}{root}/models", content, partial(_create, publication, body), body),
        Step(
            key="import",
            shows=f"POST {address}{root}/models/uploads, then GET until it has succeeded",
            content=content,
            run=partial(_import, publication, source),
            body=imported,
        ),
    ]
    deployment = publication.settings.deployment
    return made if deployment is None else [*made, *_deployment_steps(publication, deployment, name, content)]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of deployment and endpoint, if there are, and of the model."""
    root = _root(publication)
    paths = []
    if "deployment" in values:
        paths.append(f"{root}/endpoints/{values['endpoint']}/deployments/{values['deployment']}")
    paths += [f"{root}/{kind}/{values[value]}" for value, kind in _MADE.items() if value in values]
    return [
        Step(
            key=f"delete {path}",
            shows=f"DELETE {publication.host.api}{path}",
            content=hash_content(path),
            run=partial(_delete, publication, path),
        )
        for path in paths
    ]


_MADE = {"endpoint": "endpoints", "id": "models"}


def question(publication: Publication, values: Values) -> Question | None:
    """Return how the deployed model is asked, by its endpoint's name; None without a deployment."""
    if "endpoint_name" not in values:
        return None
    provider = Provider("together", publication.host.chat, publication.host.key_variable)
    return Question(provider, values["endpoint_name"], answers_of=ANSWERS_OF, same_files=False)


def cost(publication: Publication) -> str:
    """Return what the deployment costs at most; empty without one."""
    return explain_hourly_cost(publication, publication.settings.deployment)


def _root(publication: Publication) -> str:
    project = read_account("TOGETHER_PROJECT_ID", publication.settings.project, "publish.together.project")
    return f"/v2/projects/{project}"


def _source(publication: Publication, files: list[RunFile]) -> str:
    """Return where Together fetches the adapter, without a signature."""
    hub, s3 = publication.recipe.publish.hub, publication.recipe.publish.s3
    if publication.settings.source == "hub":
        if hub is None or hub.repository is None or "adapter" not in hub.forms:
            raise BadRecipe(
                "publish.together.source: hub: state publish.hub with the form adapter, and publish it first"
            )
        return f"{HUB}/{hub.repository}"
    if s3 is None or not s3.url.startswith("s3://"):
        raise BadRecipe("publish.together.source: s3: state publish.s3.url: s3://bucket/path")
    return f"{s3.url.rstrip('/')}/{archive_file(publication, files).name}"


def _archive_steps(publication: Publication, files: list[RunFile]) -> list[Step]:
    """Return the archive and its upload where Together fetches from S3."""
    if publication.settings.source == "hub":
        return []
    address = _source(publication, files)
    run = partial(_upload_archive, publication, files, address)
    return [
        archive_step(publication, files),
        Step("upload", f"PUT {address}", hash_content(address, [file.sha256 for file in files]), run),
    ]


def _upload_archive(publication: Publication, files: list[RunFile], address: str, _: Values) -> None:
    archive = archive_file(publication, files)
    file = RunFile(archive.name, archive, cached_sha256(archive), archive.stat().st_size)
    upload_file(file, address, publication.folder)


def _find_base(publication: Publication, base: str, _: Values) -> Values:
    """Return Together's id of the base that has this name.

    Raises:
        NotFound: it serves no such base.
    """
    api = HttpApi(publication.host)
    answer = api.request("GET", "/v2/supported-models", params={"search": base}).json
    model = api.find(answer, "name", lambda name: name == base)
    if model is None:
        raise NotFound(
            f"publish.together.base: {base}: Together AI does not serve it: docs.together.ai lists its models"
        )
    return {"base": api.read(model, "id")}


def _create(publication: Publication, body: dict[str, str], values: Values) -> Values:
    refuse_other_version(publication, body["name"], values)
    api, path = HttpApi(publication.host), f"{_root(publication)}/models"
    answer = api.request("POST", path, body | {"baseModelId": values["base"]}, allow=(ALREADY,))
    if answer.status != ALREADY:
        return {"model": body["name"], "id": api.read(answer.json, "id")}
    named = api.find(api.request("GET", path).json, "name", lambda name: name.rpartition("/")[2] == body["name"])
    return {"model": body["name"], "id": api.read(named, "id")}


def _import(publication: Publication, source: str, values: Values) -> Values:
    api, path = HttpApi(publication.host), f"{_root(publication)}/models/uploads"
    body = {"modelId": values["id"]}
    if publication.settings.source == "s3":
        body |= {"remoteUrl": sign_address(source, SIGNED_S)}
    else:
        token = read_stated_variable(HUB_KEY)
        body |= {"remoteUrl": source} | ({"token": token} if token else {})
    job = api.read(api.request("POST", path, body).json, "id")
    api.wait_for(f"{path}/{job}", partial(_is_imported, api), IMPORTED_S)
    return {"import": job}


def _is_imported(api: HttpApi, answer: Any) -> bool:
    status = api.read(answer, "status").removeprefix("REMOTE_UPLOAD_STATUS_")
    if status in ("FAILED", "ERROR"):
        raise StageFailed(f"Together AI: the import is {status}: {str(answer.get('statusMessage'))[:300]}")
    return status == "SUCCEEDED"


def _deployment_steps(publication: Publication, deployment: Deployment, name: str, content: str) -> list[Step]:
    root, address = _root(publication), publication.host.api
    body: dict[str, Any] = {
        "name": name,
        "model": f"{root.removeprefix('/v2/')}/models/{{id}}",
        "autoscaling": {"minReplicas": 1, "maxReplicas": 1},
        "inactiveTimeout": max(30, deployment.idle_minutes),  # the least that Together takes
    }
    body |= {"config": publication.settings.config} if publication.settings.config else {}
    content = hash_content(body, content)
    return [
        Step(
            key="endpoint",
            shows=f"POST {address}{root}/endpoints",
            content=hash_content(name),
            run=partial(_create_endpoint, publication, name),
            body={"name": name},
        ),
        Step(
            key="check the hardware",
            shows=f"POST {address}{root}/endpoints/{{endpoint}}/deployments, with validateOnly=true, whose answer may "
            f"have at most {deployment.gpus} × {deployment.gpu}",
            content=content,
            run=partial(_check_hardware, publication, deployment, body),
            body=body,
        ),
        Step(
            key="deploy",
            shows=f"POST {address}{root}/endpoints/{{endpoint}}/deployments",
            content=content,
            run=partial(_deploy, publication, body),
            body=body,
        ),
        Step(
            key="route",
            shows=f"GET {address}{root}/endpoints/{{endpoint}}/deployments/{{deployment}} until it is READY, then "
            f"PATCH {address}{root}/endpoints/{{endpoint}}",
            content=content,
            run=partial(_route, publication),
            body={"trafficSplit": [{"deploymentId": "{deployment}", "weight": 1}]},
        ),
    ]


def _create_endpoint(publication: Publication, name: str, _: Values) -> Values:
    api = HttpApi(publication.host)
    answer = api.request("POST", f"{_root(publication)}/endpoints", {"name": name}).json
    return {"endpoint": api.read(answer, "id"), "endpoint_name": api.read(answer, "name")}


def _deployments(publication: Publication, values: Values) -> str:
    return f"{_root(publication)}/endpoints/{values['endpoint']}/deployments"


def _of_model(body: dict[str, Any], values: Values) -> dict[str, Any]:
    return body | {"model": body["model"].replace("{id}", values["id"])}


def _check_hardware(publication: Publication, deployment: Deployment, body: dict[str, Any], values: Values) -> None:
    """Raise BadRequest if the deployment would take other or more hardware than the stated bound is for."""
    api, path = HttpApi(publication.host), _deployments(publication, values)
    answer = api.request("POST", path, _of_model(body, values), params={"validateOnly": "true"}).json
    hardware = api.read(answer, "hardware")
    count = re.match(r"(\d+)x", hardware)
    if not count or int(count[1]) > deployment.gpus or deployment.gpu.lower() not in hardware.lower():
        raise BadRequest(
            f"publish.together.deployment: it would take {hardware}, not at most {deployment.gpus} × {deployment.gpu}; "
            "state gpu and gpus of that"
        )


def _deploy(publication: Publication, body: dict[str, Any], values: Values) -> Values:
    api = HttpApi(publication.host)
    answer = api.request("POST", _deployments(publication, values), _of_model(body, values)).json
    return {"deployment": api.read(answer, "id")}


def _route(publication: Publication, values: Values) -> None:
    api, path = HttpApi(publication.host), _deployments(publication, values)
    api.wait_for(f"{path}/{values['deployment']}", partial(_is_ready, api), DEPLOYED_S)
    split = {"trafficSplit": [{"deploymentId": values["deployment"], "weight": 1}]}
    api.request("PATCH", f"{_root(publication)}/endpoints/{values['endpoint']}", split)


def _is_ready(api: HttpApi, answer: Any) -> bool:
    state = api.read(answer, "status", "state").removeprefix("DEPLOYMENT_STATE_")
    if state in ("FAILED", "STOPPED", "STOPPING"):
        raise StageFailed(f"Together AI: the deployment is {state}: {str(answer['status'].get('message'))[:300]}")
    return state == "READY"


def _delete(publication: Publication, path: str, _: Values) -> None:
    HttpApi(publication.host).request("DELETE", path, allow=(404,))
