"""Target `groq`: the adapter as a model of GroqCloud, for enterprise accounts alone.

https://console.groq.com/docs/lora and the API reference (files; fine tuning, in closed beta), read 2026-11-30: a zip of
the adapter is uploaded as a file and registered as `type: lora`. Groq trains nothing, and takes no GGUF.
"""

from collections.abc import Sequence
from functools import partial

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


def steps(publication: Publication) -> Sequence[Step]:
    """Return the archive, its upload, and its registration.

    Raises:
        BadRecipe: the base's name there is not known.
    """
    files, address = list_adapter(publication), publication.host.api
    name, size = name_version(publication, files), format_bytes(sum(file.bytes for file in files))
    body = {"input_file_id": "{file}", "name": name, "type": "lora", "base_model": base_at_host(publication)}
    return [
        archive_step(publication, files),
        Step(
            key="upload",
            shows=f"POST {address}/openai/v1/files, a form with {name}.zip ({size})",
            content=hash_content(name),
            run=partial(_upload, publication, files),
            body={"purpose": "fine_tuning"},
        ),
        Step(
            "register",
            f"POST {address}/v1/fine_tunings",
            hash_content(body),
            partial(_register, publication, body),
            body,
        ),
    ]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of the registration and of the file."""
    paths = {"id": "/v1/fine_tunings", "file": "/openai/v1/files"}
    return [
        Step(
            key=f"delete {value}",
            shows=f"DELETE {publication.host.api}{path}/{values[value]}",
            content=hash_content(path, values[value]),
            run=partial(_delete, publication, f"{path}/{values[value]}"),
        )
        for value, path in paths.items()
        if value in values
    ]


def question(publication: Publication, values: Values) -> Question:
    """Return how the model is asked."""
    provider = Provider("groq", publication.host.chat, publication.host.key_variable)
    return Question(provider, values["fine_tuned_model"], answers_of=ANSWERS_OF, same_files=False)


def _upload(publication: Publication, files: list[RunFile], values: Values) -> Values:
    name = name_version(publication, files)
    refuse_other_version(publication, name, values)
    api = HttpApi(publication.host)
    if there := api.find(api.request("GET", "/v1/fine_tunings").json, "name", lambda registered: registered == name):
        return {"model": name} | {key: api.read(there, key) for key in ("id", "fine_tuned_model")}
    answer = api.post_form("/openai/v1/files", archive_file(publication, files), {"purpose": "fine_tuning"})
    return {"file": api.read(answer, "id")}


def _register(publication: Publication, body: dict[str, str], values: Values) -> Values:
    if "file" not in values:  # it was there
        return {}
    api = HttpApi(publication.host)
    answer = api.request("POST", "/v1/fine_tunings", body | {"input_file_id": values["file"]}).json
    made = {name: api.read(answer, "data", name) for name in ("id", "fine_tuned_model")}
    return {"model": body["name"]} | made


def _delete(publication: Publication, path: str, _: Values) -> None:
    HttpApi(publication.host).request("DELETE", path, allow=(404,))
