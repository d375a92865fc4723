"""Target `ollama`: one GGUF file becomes a model of an Ollama server, by its API.

The Modelfile that `convert` wrote and checked says template, stop tokens and parameters. Ollama keeps files by their
SHA-256, so a file that it has is not sent again. Versions before 0.30 refuse tools for a model whose TEMPLATE writes
none; they are asked without. https://docs.ollama.com/api (version, create a model, push a blob), read 2026-11-30.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tuneline.configs.models import registry
from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.core.formatting import format_bytes
from tuneline.engines.providers import Provider
from tuneline.publish.http_api import HttpApi
from tuneline.publish.run_files import RunFile, list_stage_files
from tuneline.publish.target import Publication, Question, Step, Values, hash_content
from tuneline.stages.convert.ollama.modelfile import OWN_TEMPLATE, SUFFIX, parse_modelfile

HOST_VARIABLE = "OLLAMA_HOST"
"""Ollama's own variable for its address: `host:port`, or a URL."""
LISTS = ("stop",)
"""Parameters of a Modelfile that may be stated several times."""


def steps(publication: Publication) -> Sequence[Step]:
    """Return a look at the server's version, the upload of the GGUF file, and the creation of the model.

    Raises:
        NotFound: the GGUF file or its Modelfile was not made.
    """
    model = _find_model_file(publication)
    body = _make_request(publication, model)
    blob = f"/api/blobs/sha256:{model.sha256}"
    address = _find_address(publication)
    return [
        Step(
            key="version",
            shows=f"GET {address}/api/version"
            + ("" if "template" in body else f", at least {OWN_TEMPLATE}: the model's template is that of the GGUF"),
            content=hash_content(address, "template" in body),
            run=partial(_check_version, publication, needs_own="template" not in body),
            repeats=True,
        ),
        Step(
            key=f"upload {model.name}",
            shows=f"POST {address}{blob} ({model.name}, {format_bytes(model.bytes)})",
            content=hash_content(address, model.sha256),
            run=partial(_upload, publication, model, blob),
        ),
        Step(
            key="create",
            shows=f"POST {address}/api/create",
            content=hash_content(address, body),
            run=partial(_create, publication, body),
            body=body,
        ),
    ]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of the model; Ollama removes a file that no model uses by itself."""
    body = {"model": values.get("model", _model_name(publication))}
    return [
        Step(
            key="delete",
            shows=f"DELETE {_find_address(publication)}/api/delete",
            content=hash_content(body),
            run=partial(_delete, publication, body),
            body=body,
        )
    ]


def question(publication: Publication, values: Values) -> Question:
    """Return how the model is asked: by Ollama's OpenAI API."""
    return Question(
        Provider("ollama", f"{_find_address(publication)}/v1"),
        values["model"],
        answers_of=f"tuned-{_find_type(publication)}",
        same_files=True,
        sends_tools=_at_least(values["version"], OWN_TEMPLATE),
    )


def _find_address(publication: Publication) -> str:
    address = read_stated_variable(HOST_VARIABLE).rstrip("/") or publication.host.api
    address = address if "://" in address else f"http://{address}"
    return address.replace("//0.0.0.0", "//127.0.0.1")  # what a server listens on is no address of it


def _api(publication: Publication) -> HttpApi:
    return HttpApi(publication.host.model_copy(update={"api": _find_address(publication)}))


def _find_type(publication: Publication) -> str:
    return str(publication.settings.type or publication.recipe.serve.type)


def _model_name(publication: Publication) -> str:
    return str(publication.settings.model or publication.run.name.lower())


def _find_model_file(publication: Publication) -> RunFile:
    name = f"tuned-{_find_type(publication)}.gguf"
    files = list_stage_files(publication.run, "convert", name)
    if not files:
        raise NotFound(f"publish.ollama.type: {publication.run / 'convert' / name}: was not made; see convert.types")
    return replace(files[0], name=name)


def _make_request(publication: Publication, model: RunFile) -> dict[str, Any]:
    """Return the body of `/api/create` with what the Modelfile says."""
    name = model.name.removesuffix(".gguf") + SUFFIX
    files = list_stage_files(publication.run, "convert", name)
    if not files:
        raise NotFound(
            f"{publication.run / 'convert' / name}: was not made, by an earlier version; convert the run again"
        )
    modelfile = parse_modelfile(files[0].path.read_text("utf-8"))
    body: dict[str, Any] = {"model": _model_name(publication), "files": {model.name: f"sha256:{model.sha256}"}}
    body |= {"template": modelfile["TEMPLATE"][0]} if "TEMPLATE" in modelfile else {}
    body["parameters"] = {
        key.removeprefix("PARAMETER "): values if key.removeprefix("PARAMETER ") in LISTS else _to_number(values[0])
        for key, values in modelfile.items()
        if key.startswith("PARAMETER ")
    }
    return body | _licence(publication) | {"stream": False}


def _to_number(text: str) -> float | int | str:
    """Return a parameter's value as Ollama's API takes it, which is typed where a Modelfile is not."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _licence(publication: Publication) -> dict[str, str]:
    models = registry()
    key = models.find(publication.recipe.base)
    licence = models.licences.get(models.models[key].licence) if key else None
    return {"license": f"{licence.name}\n{licence.url}\n{licence.notice or ''}".strip()} if licence else {}


def _check_version(publication: Publication, _: Values, *, needs_own: bool) -> Values:
    """Return the server's version.

    Raises:
        BadRequest: it is too old for a model whose template is the GGUF's own.
    """
    api = _api(publication)
    version = api.read(api.request("GET", "/api/version").json, "version")
    if needs_own and not _at_least(version, OWN_TEMPLATE):
        raise BadRequest(
            f"Ollama {version}: takes templates in its own language alone, in which this base's cannot be written; "
            f"install {OWN_TEMPLATE} or later"
        )
    return {"version": version}


def _at_least(version: str, least: str) -> bool:
    """Return whether a version is that or later, by its first three numbers."""
    numbers = [[int(number) for number in re.findall(r"\d+", text)[:3]] for text in (version, least)]
    return numbers[0] >= numbers[1]


def _upload(publication: Publication, model: RunFile, blob: str, _: Values) -> None:
    api = _api(publication)
    if api.request("HEAD", blob, allow=(404,)).status == 404:
        api.upload("POST", blob, model.path)


def _create(publication: Publication, body: dict[str, Any], _: Values) -> Values:
    answer = _api(publication).request("POST", "/api/create", body).json
    if not isinstance(answer, dict) or answer.get("status") != "success":
        raise StageFailed(f"Ollama: unexpected answer to create: {str(answer)[:200]}")
    return {"model": str(body["model"])}


def _delete(publication: Publication, body: dict[str, str], _: Values) -> None:
    _api(publication).request("DELETE", "/api/delete", body, allow=(404,))
