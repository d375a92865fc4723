"""Target `space`: a Hugging Face Space with a chat page, which asks a server of yours (`publish.space.url`).

The page is written here and uploaded by huggingface_hub. The server's key is not: add it to the Space as the secret
API_KEY, where visitors cannot read it. https://huggingface.co/docs/hub/spaces-config-reference, read 2026-11-30.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import yaml

from tuneline.core.errors import BadRecipe
from tuneline.publish import hub
from tuneline.publish.target import FILE, Publication, Step, Values, hash_content

PAGE = Path(__file__).parent / "space_page/app.py"
GRADIO = "6.31.0"
"""The version that the page is tested with; a Space installs it by its README."""


def steps(publication: Publication) -> Sequence[Step]:
    """Return the Space's creation, its variables, and one commit of its files.

    Raises:
        BadRecipe: `repository` or `url` is missing.
    """
    repository, address = _require(publication, "repository"), hub.address_of(publication)
    variables = {"MODEL_URL": _require(publication, "url"), "MODEL_NAME": _model_name(publication)}
    files = _make_files(publication)
    visibility = "private" if publication.settings.private else "public"
    body = {"name": repository, "type": "space", "sdk": "gradio", "visibility": visibility}
    return [
        Step(
            key="create",
            shows=f"POST {address}/api/repos/create",
            content=hash_content(address, body),
            run=partial(_create, publication, repository),
            body=body,
        ),
        *(_variable_step(publication, repository, name, value) for name, value in variables.items()),
        Step(
            key="commit",
            shows=f"POST {address}/api/spaces/{repository}/commit/main, of these files:",
            content=hash_content(address, repository, files),
            run=partial(_commit, publication, repository, files),
            body="\n\n".join(f"{name}:\n{text}" for name, text in files.items()),
        ),
    ]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of the Space, if publishing created it, else of its files."""
    return hub.take_back(publication, values, "space")


def _require(publication: Publication, setting: str) -> str:
    value = getattr(publication.settings, setting)
    if not value:
        raise BadRecipe(f"publish.space.{setting}: required: `--set publish.space.{setting}=…`")
    return str(value)


def _model_name(publication: Publication) -> str:
    return str(publication.settings.model or publication.run.name)


def _make_files(publication: Publication) -> dict[str, str]:
    name = publication.run.name
    header = {"title": name[:30], "sdk": "gradio", "sdk_version": GRADIO, "app_file": "app.py", "pinned": False}
    readme = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\nA chat page of {name}, published by Tuneline.\n"
    requirements = f"openai=={metadata.version('openai')}\n"
    return {"README.md": readme, "app.py": PAGE.read_text("utf-8"), "requirements.txt": requirements}


def _create(publication: Publication, repository: str, values: Values) -> Values:
    """Create the Space. One that is there is used, unless its visibility is another than the recipe's."""
    return hub.create_repository(publication, repository, values, repo_type="space", space_sdk="gradio")


def _variable_step(publication: Publication, repository: str, name: str, value: str) -> Step:
    def run(_: Values) -> None:
        with hub.translated_errors(publication):
            hub.open_api(publication).add_space_variable(repository, name, value)

    return Step(
        key=f"variable {name}",
        shows=f"POST {hub.address_of(publication)}/api/spaces/{repository}/variables",
        content=hash_content(repository, name, value),
        run=run,
        body={"key": name, "value": value},
    )


def _commit(publication: Publication, repository: str, files: Mapping[str, str], _: Values) -> Values:
    from huggingface_hub import CommitOperationAdd

    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=text.encode()) for name, text in files.items()]
    with hub.translated_errors(publication):
        made = hub.open_api(publication).create_commit(
            repository, additions, commit_message="Published by Tuneline", repo_type="space"
        )
    return {"commit": str(made.oid)} | {f"{FILE}{name}": repository for name in files}
