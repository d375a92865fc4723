"""Target `wandb`: the adapter as an artifact of Weights & Biases, which its inference service loads with the base.

https://docs.wandb.ai/inference/lora, read 2026-11-30: an artifact of type `lora` with the base's name in its metadata,
kept in the region of the service; it is asked by its address. W&B keeps files by their content: the same ones are one
version.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from tuneline.core.errors import BadRecipe, BadRequest, StageFailed, TunelineError
from tuneline.core.formatting import format_bytes
from tuneline.core.redaction import redact
from tuneline.engines.providers import Provider
from tuneline.publish.adapters import (
    ANSWERS_OF,
    base_at_host,
    list_adapter,
    name_version,
    refuse_other_version,
)
from tuneline.publish.http_api import HttpApi
from tuneline.publish.run_files import RunFile
from tuneline.publish.target import Publication, Question, Step, Values, hash_content

REGION = "coreweave-us"
"""Where the service reads artifacts from."""


def steps(publication: Publication) -> Sequence[Step]:
    """Return the upload of the artifact.

    Raises:
        BadRecipe: the team or the project is not stated, or the base's name there is not known.
    """
    files, place = list_adapter(publication), _place(publication)
    name, base = name_version(publication, files), base_at_host(publication)
    body = {"name": name, "type": "lora", "metadata": {"wandb.base_model": base}, "storage_region": REGION}
    size = format_bytes(sum(file.bytes for file in files))
    return [
        Step(
            key="upload",
            shows=f"log an artifact of {size} to {place}, by the package wandb: {', '.join(f.name for f in files)}",
            content=hash_content(place, body),
            run=partial(_upload, publication, files, name, base),
            body=body,
        )
    ]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of the artifact's version."""
    if "artifact" not in values:
        return []
    run = partial(_delete, publication, values["artifact"])
    return [Step("delete", f"delete the artifact {values['artifact']}", hash_content(values["artifact"]), run)]


def question(publication: Publication, values: Values) -> Question:
    """Return how the model is asked: by the artifact's address, as the project that pays for it."""
    return Question(
        Provider("wandb", publication.host.chat, publication.host.key_variable),
        f"wandb-artifact:///{values['artifact']}",
        answers_of=ANSWERS_OF,
        same_files=False,
        sampling={"extra_headers": {"OpenAI-Project": _place(publication)}},
    )


def _place(publication: Publication) -> str:
    team, project = publication.settings.team, publication.settings.project
    if not team:
        raise BadRecipe("publish.wandb.team: required: the service takes no personal accounts")
    return f"{team}/{project}"


def _upload(publication: Publication, files: list[RunFile], name: str, base: str, values: Values) -> Values:
    import wandb

    refuse_other_version(publication, name, values)
    publication.folder.mkdir(parents=True, exist_ok=True)
    quiet = {"console": "off", "silent": True, "disable_code": True, "disable_git": True}
    settings = wandb.Settings(root_dir=str(publication.folder), base_url=publication.host.api, **quiet)
    team, project = _place(publication).split("/")
    with _translated(publication):
        run = wandb.init(entity=team, project=project, job_type="publish", name=name, settings=settings)
        try:
            artifact = wandb.Artifact(name, "lora", metadata={"wandb.base_model": base}, storage_region=REGION)
            for file in files:
                artifact.add_file(str(file.path), name=file.name, policy="immutable", skip_cache=True)
            version = run.log_artifact(artifact).wait().version
        except BaseException:
            with contextlib.suppress(Exception):  # what finishing finds wrong would hide why
                run.finish(exit_code=1)
            raise
        run.finish()
    return {"model": name, "artifact": f"{team}/{project}/{name}:{version}"}


def _delete(publication: Publication, artifact: str, _: Values) -> None:
    import wandb

    with _translated(publication):
        api = wandb.Api(overrides={"base_url": publication.host.api})
        api.artifact(artifact, type="lora").delete(delete_aliases=True)


@contextlib.contextmanager
def _translated(publication: Publication) -> Iterator[None]:
    """Check the key first, then turn wandb's errors into ours.

    Without a key wandb asks the terminal; a wrong one it reports as any answer of its server; and its process, which
    cannot be talked to any more once an unexpected answer has ended it, has errors that are none of `wandb.errors`.
    """
    _check_key(publication)
    title = publication.host.title
    try:
        yield
    except TunelineError:
        raise
    except Exception as error:
        reason = redact(str(error))[:300] or f"its process ended ({type(error).__name__})"
        raise StageFailed(f"{title}: {reason}; run the same command again") from None


def _check_key(publication: Publication) -> None:
    """Ask whose the key is, as `wandb login --verify` does.

    Raises:
        BadRequest: there is no key, or it is refused. StageFailed: no answer, or none that is expected.
    """
    api = HttpApi(publication.host, user="api")
    answer = api.request("POST", "/graphql", {"query": "query Viewer { viewer { username } }"}).json
    viewer = answer.get("data") if isinstance(answer, dict) else None
    if isinstance(viewer, dict) and "viewer" in viewer and viewer["viewer"] is None:
        variable = publication.host.key_variable
        raise BadRequest(f"{publication.host.title}: the key in {variable} belongs to no account; set one of yours")
    api.read(answer, "data", "viewer", "username")
