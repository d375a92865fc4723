"""Target `nebius`: the adapter as a model of Nebius Token Factory, served beside its base and billed by tokens.

https://docs.tokenfactory.nebius.com (upload custom model archive, create a custom model, deploy a custom model), read
2026-11-30: a zip of at most 500 MB becomes a file, the file a model, which answers once its status is `active`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.core.formatting import format_bytes
from tuneline.engines.providers import Provider
from tuneline.publish.adapters import (
    ANSWERS_OF,
    archive_file,
    archive_step,
    base_at_host,
    list_adapter,
    name_version,
    refuse_other_version,
)
from tuneline.publish.http_api import HttpApi
from tuneline.publish.run_files import RunFile
from tuneline.publish.target import Publication, Question, Step, Values, hash_content

LARGEST_BYTES = 500_000_000
READY_S = 3600.0


def steps(publication: Publication) -> Sequence[Step]:
    """Return the archive, its upload, the model's creation, and the wait until it answers.

    Raises:
        BadRecipe: the base's name there is not known, or the adapter is too large.
    """
    files, address = list_adapter(publication), publication.host.api
    if (size := sum(file.bytes for file in files)) > LARGEST_BYTES:
        raise BadRecipe(
            f"{publication.run.name}: its adapter has {format_bytes(size)}: Nebius takes archives of "
            f"{format_bytes(LARGEST_BYTES)}; train with a lower train.rank"
        )
    name = name_version(publication, files)
    body = {"name": name, "base_model": base_at_host(publication), "source": "{file}"}
    content = hash_content(body)
    return [
        archive_step(publication, files),
        Step(
            key="upload",
            shows=f"POST {address}/v0/models/upload, a form with {name}.zip ({format_bytes(size)})",
            content=hash_content(name),
            run=partial(_upload, publication, files),
        ),
        Step("create", f"POST {address}/v0/models", content, partial(_create, publication, body), body),
        Step(
            key="wait",
            shows=f"GET {address}/v0/models/{{id}} until its status is active",
            content=content,
            run=partial(_wait, publication),
        ),
    ]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of the model."""
    if "id" not in values:
        return []
    path = f"/v0/models/{values['id']}"
    run = partial(_delete, publication, path)
    return [Step("delete", f"DELETE {publication.host.api}{path}", hash_content(path), run)]


def question(publication: Publication, values: Values) -> Question:
    """Return how the model is asked."""
    provider = Provider("nebius", publication.host.chat, publication.host.key_variable)
    return Question(provider, values["id"], answers_of=ANSWERS_OF, same_files=False)


def _params(publication: Publication) -> dict[str, str]:
    return {"ai_project_id": publication.settings.project} if publication.settings.project else {}


def _upload(publication: Publication, files: list[RunFile], values: Values) -> Values:
    name = name_version(publication, files)
    refuse_other_version(publication, name, values)
    api = HttpApi(publication.host)
    listed = api.request("GET", "/v0/models", params=_params(publication)).json
    if model := api.find(listed, "name", lambda there: there.rpartition(":")[2].startswith(name)):
        return {"model": name, "id": api.read(model, "name")}  # Nebius adds a few letters to a name of ours
    answer = api.post_form("/v0/models/upload", archive_file(publication, files), params=_params(publication))
    return {"file": api.read(answer, "id")}


def _create(publication: Publication, body: dict[str, str], values: Values) -> Values:
    if "file" not in values:  # it was there
        return {}
    api = HttpApi(publication.host)
    request = body | {"source": values["file"]}
    answer = api.request("POST", "/v0/models", request, params=_params(publication)).json
    return {"model": body["name"], "id": api.read(answer, "name")}


def _wait(publication: Publication, values: Values) -> None:
    api = HttpApi(publication.host)
    api.wait_for(f"/v0/models/{values['id']}", partial(_is_active, api), READY_S, _params(publication))


def _is_active(api: HttpApi, answer: Any) -> bool:
    status = api.read(answer, "status")
    if status in ("error", "deleted"):
        raise StageFailed(f"Nebius: the model's status is {status}: {str(answer.get('status_reason'))[:300]}")
    return status == "active"


def _delete(publication: Publication, path: str, _: Values) -> None:
    HttpApi(publication.host).request("DELETE", path, allow=(404,), params=_params(publication))
