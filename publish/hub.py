"""Target `hub`: a repository on the Hugging Face Hub with the run's files, model card, notice and licence.

huggingface_hub sends large files by Xet, chunk by chunk, or with `HF_HUB_DISABLE_XET=1` in parts by LFS; it repeats a
part whose connection broke, and sends nothing that the hub has. A token for Xet's storage stays in that library.
https://huggingface.co/docs/huggingface_hub/guides/upload and huggingface_hub 2.4.0, read 2026-11-30.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import BadRecipe, BadRequest, NotFound, StageFailed
from tuneline.core.formatting import format_bytes
from tuneline.core.redaction import redact
from tuneline.core.web_requests import read_retry_after
from tuneline.publish.http_api import LONGEST_WAIT_S, RETRIES
from tuneline.publish.run_files import RunFile, join_forms
from tuneline.publish.target import FILE, VERIFIED, Publication, Step, Values, hash_content
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.report.model_card import make_card

ENDPOINT_VARIABLE = "HF_ENDPOINT"
"""The hub's own variable for the address of a mirror."""
LICENCE_NAMES = ("license", "licence", "use_policy")
"""What the names of a base's files with its licence begin with; they go along."""
LICENCES_ON_HUB = ("LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md")
"""What these files are called in repositories of bases; a base on this machine is kept without them."""
BINARY = (".gguf", ".safetensors")
Kind = Literal["model", "space"]
"""Of a repository on the hub."""
T = TypeVar("T")


def steps(publication: Publication) -> Sequence[Step]:
    """Return the repository's creation, the upload of each large file, one commit, and a comparison of hashes.

    Raises:
        BadRecipe: the recipe names no repository. NotFound: the run is not evaluated, so that it has no model card.
    """
    repository, address = _repository(publication), address_of(publication)
    files = join_forms(publication.run, publication.recipe, publication.settings.forms)
    texts = make_card(publication.run) | _licence_texts(publication)
    content = hash_content(repository, address, [(file.name, file.sha256) for file in files], texts)
    body = {"name": repository, "visibility": "private" if publication.settings.private else "public"}
    listed = "".join(f"{name}\n" for name in sorted([*texts, *(file.name for file in files)]))
    large = [file for file in files if file.name.endswith(BINARY)]
    return [
        Step(
            key="create",
            shows=f"POST {address}/api/repos/create",
            content=hash_content(address, body),
            run=partial(create_repository, publication, repository),
            body=body,
        ),
        *(_upload_step(publication, file) for file in large),
        Step(
            key="commit",
            shows=f"POST {address}/api/models/{repository}/commit/main, of these files{_licence_note(publication)}:",
            content=content,
            run=partial(_commit, publication, files, texts),
            body=listed + "\n" + "\n\n".join(f"{name}:\n{text}" for name, text in texts.items()),
        ),
        Step(
            key="verify",
            shows=f"GET {address}/api/models/{repository}, with blobs=true, and compare the hashes",
            content=content,
            run=partial(_verify, publication, large),
            repeats=True,
        ),
    ]


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the deletion of the repository if it was created by publishing, else of the files that were added."""
    return take_back(publication, values, "model")


def take_back(publication: Publication, values: Values, kind: Kind) -> Sequence[Step]:
    """Return the deletion of a model's repository or a Space if publishing created it, else of the files it added."""
    repository, address = values.get("repository", publication.settings.repository or ""), address_of(publication)
    if values.get("created") == "yes":
        return [
            Step(
                key="delete",
                shows=f"DELETE {address}/api/repos/delete",
                content=hash_content(repository),
                run=partial(_delete_repository, publication, repository, kind),
                body={"name": repository, "type": kind},
            )
        ]
    names = [name.removeprefix(FILE) for name in values if name.startswith(FILE)]
    return [
        Step(
            key="delete files",
            shows=f"POST {address}/api/{kind}s/{repository}/commit/main, which deletes:",
            content=hash_content(repository, names),
            run=partial(_delete_files, publication, repository, kind, names),
            body="\n".join(names),
        )
    ]


def address_of(publication: Publication) -> str:
    """Return the hub's address."""
    return read_stated_variable(ENDPOINT_VARIABLE).rstrip("/") or publication.host.api


def _repository(publication: Publication) -> str:
    if not publication.settings.repository:
        raise BadRecipe("publish.hub.repository: required: `--set publish.hub.repository=you/your-model`")
    return str(publication.settings.repository)


def _licence_texts(publication: Publication) -> dict[str, str]:
    """Return the licence files of the base's folder, which licences such as Llama's require to go along."""
    with contextlib.suppress(NotFound):  # a base that is no longer on this machine
        base = open_base(publication.recipe)
        names = [name for name in base.manifest.files if name.lower().startswith(LICENCE_NAMES)]
        return {name: (base.path / name).read_text("utf-8", errors="replace") for name in names}
    return {}


def _licence_note(publication: Publication) -> str:
    base = publication.recipe.base
    return f" and those of {', '.join(LICENCES_ON_HUB)} that {base} has" if "/" in base else ""


def fetch_licences(api: Any, base: str, revision: str | None) -> dict[str, bytes]:
    """Return the licence files of a base's repository on the hub, by name; those that are not there are left out."""
    from huggingface_hub.errors import EntryNotFoundError

    files = {}
    for name in LICENCES_ON_HUB:
        with contextlib.suppress(EntryNotFoundError), tempfile.TemporaryDirectory() as folder:
            files[name] = Path(api.hf_hub_download(base, name, revision=revision, local_dir=folder)).read_bytes()
    return files


def open_api(publication: Publication) -> Any:
    """Return the hub's client with the key of the environment.

    Raises:
        BadRequest: the key is not set.
    """
    from huggingface_hub import HfApi

    variable = publication.host.key_variable or ""
    token = read_stated_variable(variable)
    if not token:
        raise BadRequest(
            f"{publication.host.title}: {variable} is not set; `export {variable}=…` with a key that writes"
        )
    return HfApi(endpoint=address_of(publication), token=token)


def create_repository(publication: Publication, repository: str, values: Values, **kind: str) -> Values:
    """Create a repository; one that is there has to be as private as the recipe says.

    `kind` is huggingface_hub's `repo_type` and `space_sdk`, for what is no model.

    Raises:
        BadRequest: the run is in another repository, or this one has another visibility.
    """
    from huggingface_hub.errors import HfHubHTTPError

    api, private = open_api(publication), publication.settings.private
    setting = f"publish.{publication.target}.private"
    if values.get("repository", repository) != repository:
        raise BadRequest(
            f"{values['repository']}: has this run already; take it back first: --from {publication.target}"
        )
    with translated_errors(publication):
        try:
            _repeat(lambda: api.create_repo(repository, private=private, **kind))
            return {"repository": repository, "created": "yes"}
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
        info = _repeat(lambda: api.repo_info(repository, repo_type=kind.get("repo_type")))
    if bool(info.private) != private:
        state = "private" if info.private else "public"
        raise BadRequest(f"{setting}: {private}: {repository} is {state}; change it there, or in the recipe")
    return {"repository": repository, "created": values.get("created", "no")}


def _upload_step(publication: Publication, file: RunFile) -> Step:
    repository, address = _repository(publication), address_of(publication)
    return Step(
        key=f"upload {file.name}",
        shows=f"PUT {file.name} ({format_bytes(file.bytes)}) to the storage of {address}/{repository}, by Xet or LFS",
        content=hash_content(repository, file.name, file.sha256),
        run=partial(_upload, publication, file),
        body={"oid": file.sha256, "size": file.bytes},
    )


def _upload(publication: Publication, file: RunFile, _: Values) -> None:
    api = open_api(publication)
    with translated_errors(publication):
        _repeat(lambda: api.preupload_lfs_files(_repository(publication), [to_addition(file)], free_memory=False))


def to_addition(file: RunFile) -> Any:
    """Return the addition of a file whose hash is known, so that it is not read again for it."""
    from huggingface_hub import CommitOperationAdd

    addition = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(file.path))
    addition.upload_info.sha256 = bytes.fromhex(file.sha256)
    return addition


def _commit(publication: Publication, files: Sequence[RunFile], texts: dict[str, str], values: Values) -> Values:
    """Commit all files at once; what an earlier publication added and this one has not is deleted."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, recipe = open_api(publication), publication.recipe
    with translated_errors(publication):
        licences = fetch_licences(api, recipe.base, recipe.revision) if "/" in recipe.base else {}
    contents = licences | {name: text.encode() for name, text in texts.items()}
    names = {*contents, *(file.name for file in files)}
    gone = [name.removeprefix(FILE) for name in values if name.startswith(FILE)]
    deletions = [CommitOperationDelete(path_in_repo=name) for name in gone if name not in names]
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
    operations = [*additions, *map(to_addition, files), *deletions]
    message = f"{publication.run.name}, published by Tuneline"
    with translated_errors(publication):
        made = _repeat(lambda: api.create_commit(_repository(publication), operations, commit_message=message))
    return {"commit": str(made.oid)} | {f"{FILE}{name}": _repository(publication) for name in sorted(names)}


def _verify(publication: Publication, files: Sequence[RunFile], _: Values) -> Values:
    """Raise StageFailed if the hub has another file than the local one."""
    api, repository = open_api(publication), _repository(publication)
    with translated_errors(publication):
        info = _repeat(lambda: api.repo_info(repository, files_metadata=True))
    there = {entry.rfilename: getattr(entry.lfs, "sha256", None) for entry in info.siblings or []}
    for file in files:
        if there.get(file.name) != file.sha256:
            raise StageFailed(
                f"{repository}/{file.name}: has SHA-256 {there.get(file.name)}, not {file.sha256} of {file.path}; "
                f"publish again"
            )
    return {VERIFIED: f"all {len(files)} files of weights there are the local ones, by SHA-256"}


def _delete_repository(publication: Publication, repository: str, kind: Kind, _: Values) -> None:
    with translated_errors(publication):
        open_api(publication).delete_repo(repository, missing_ok=True, repo_type=kind)


def _delete_files(publication: Publication, repository: str, kind: Kind, names: Sequence[str], _: Values) -> None:
    from huggingface_hub import CommitOperationDelete

    deletions = [CommitOperationDelete(path_in_repo=name) for name in names]
    with translated_errors(publication):
        open_api(publication).create_commit(
            repository, deletions, commit_message="Taken back by Tuneline", repo_type=kind
        )


def _repeat(call: Callable[[], T]) -> T:
    """Return what `call` does; one that is refused for now (429) is repeated after as long as the hub says."""
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(RETRIES):
        try:
            return call()
        except HfHubHTTPError as error:
            wait = read_retry_after(error.response.headers.get("Retry-After")) or 2.0**attempt
            if error.response.status_code != 429 or wait > LONGEST_WAIT_S:
                raise
            time.sleep(wait)
    return call()


@contextlib.contextmanager
def translated_errors(publication: Publication) -> Iterator[None]:
    """Turn the errors of huggingface_hub and its transport into ours."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    title, variable = publication.host.title, publication.host.key_variable
    again = "run the same command again"
    try:
        yield
    except HfHubHTTPError as error:
        status, reason = error.response.status_code, redact(error.server_message or "no reason given")[:300]
        if status in (401, 403) and "storage" not in reason.lower():
            raise BadRequest(
                f"{title}: the key in {variable} was refused ({status}): {reason}; set one that writes"
            ) from None
        if status in (402, 403):
            raise StageFailed(
                f"{title}: no quota ({status}): {reason}; free space, or raise it in your account"
            ) from None
        if status == 429:
            raise StageFailed(
                f"{title}: too many requests (429), even after waiting: {reason}; {again} later"
            ) from None
        kind = NotFound if status == 404 else BadRequest if status < 500 else StageFailed
        raise kind(f"{title}: {status}: {reason}") from None
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:  # the latter are Xet's
        raise StageFailed(f"{title}: the connection broke ({type(error).__name__}); {again}") from None
    except (RuntimeError, ValueError, KeyError, TypeError) as error:  # of answers that it does not understand
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError | httpx2.HTTPError):
            with translated_errors(publication):
                raise cause from None
        reason = redact(str(cause or error))[:300]
        raise StageFailed(
            f"{title}: unexpected answer: {reason}; its interface may have changed: docs/publish.md"
        ) from None
