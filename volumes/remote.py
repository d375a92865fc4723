"""What the `tuneline` command asks of Modal: deployment, runs there, and the deployed app's policy."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import modal

from tuneline.configs.recipe import RECIPE
from tuneline.core import errors
from tuneline.core.artifacts import DRAFT, MANIFEST
from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.paths import ROOT
from tuneline.stages.line import ORDER
from tuneline.volumes import VOLUMES
from tuneline.volumes.leases import LEASES, end, holder
from tuneline.volumes.pipeline_run import secrets

APP = "tuneline"


def deploy() -> int:
    """`modal deploy app.py`, after what it does not check; its exit code.

    Raises:
        BadRequest: the name is another app's, which would be replaced. BadRecipe: a secret is not there.
    """
    with _told():
        secrets()
        _refuse_if_taken()
    return subprocess.run([sys.executable, "-m", "modal", "deploy", "app.py"], cwd=ROOT, check=False).returncode


def _refuse_if_taken() -> None:
    try:
        modal.App.lookup(APP)
    except modal.exception.NotFoundError:
        return
    try:
        modal.Function.from_name(APP, "policy_cpu").hydrate()
    except modal.exception.NotFoundError:
        raise BadRequest(
            f"an app that is not Tuneline is deployed as {APP} and would be replaced: `modal app stop {APP}` ends it, "
            "`modal environment create NAME`, and MODAL_ENVIRONMENT=NAME from then on, leave it alone"
        ) from None


def policy(verb: str, *words: str) -> str:
    """What `policy_cpu` of the deployed app answers.

    Raises:
        NotFound: the app is not deployed. Whatever the verb raises there.
    """
    with _told():
        outcome = modal.Function.from_name(APP, "policy_cpu").remote(verb, list(words))
    if outcome["state"] == "failed":
        raise errors.from_record(outcome)
    answer: str = outcome["message"]
    return answer


def mirror(folder: Path) -> None:
    """The recipe and the manifests of every run on Modal, laid out below `folder` as runs are here, without payload."""
    runs = VOLUMES["runs"]
    with _told():
        for run in _names(runs, "/"):
            for file in (RECIPE, *(f"{stage}/{name}" for stage in ORDER for name in (MANIFEST, DRAFT))):
                with contextlib.suppress(FileNotFoundError, modal.exception.NotFoundError):
                    content = b"".join(runs.read_file(f"{run}/{file}"))
                    if file.endswith(MANIFEST):
                        content = json.dumps(json.loads(content) | {"files": {}}).encode()
                    (folder / run / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / run / file).write_bytes(content)


def events(run: str) -> Iterator[bytes]:
    """Lines of a run's `events.jsonl` as far as they are committed.

    Raises:
        NotFound: no such run.
    """
    with _told():
        try:
            content = b"".join(VOLUMES["runs"].read_file(f"{run}/events.jsonl"))
        except FileNotFoundError:
            raise NotFound(f"{run}: no such run on Modal; `tuneline runs ls --modal` shows those there are") from None
        yield from content.splitlines()


def cancel(run: str) -> str:
    """Stop the walk of a run and the stage it waits for; the id of the walk's call.

    Raises:
        NotFound: nobody is making it.
    """
    with _told():
        running = holder(run)
        if not running:
            raise NotFound(f"{run}: nobody is making it on Modal")
        modal.FunctionCall.from_id(running["call"]).cancel()
        for stage in ORDER:
            if call := LEASES.pop(f"{run}/{stage}", None):
                modal.FunctionCall.from_id(call).cancel(terminate_containers=True)
        end(run)
        return str(running["call"])


def _names(volume: modal.Volume, path: str) -> list[str]:
    return sorted(Path(entry.path).name for entry in volume.iterdir(path, recursive=False))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Modal's own errors as ours, with the next command."""
    try:
        yield
    except modal.exception.AuthError as error:
        raise NotFound(f"Modal does not know you: {error}; `modal token new` signs you in") from None
    except modal.exception.NotFoundError as error:
        raise NotFound(f"{error}; `modal deploy app.py` brings the app up") from None
    except modal.exception.ConnectionError as error:
        raise NotFound(f"Modal cannot be reached: {error}") from None
