"""What the `tuneline` command does on Modal: deploy the app, read and cancel runs, change the deployed app's policy."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import modal

from tuneline.configs.recipe import RECIPE
from tuneline.core import errors
from tuneline.core.artifacts import DRAFT, MANIFEST
from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.manifest import format_manifest, parse_manifest
from tuneline.core.paths import ROOT
from tuneline.stages.line import ORDER
from tuneline.volumes.cloud_secrets import require_secrets
from tuneline.volumes.leases import LEASES, holder, release
from tuneline.volumes.mounts import VOLUMES

APP = "tuneline"


def deploy() -> int:
    """Run `modal deploy app.py` and return its exit code, after checks that it does not make.

    Raises:
        BadRequest: another app has the name and would be replaced.
        BadRecipe: a Secret does not exist.
    """
    with _explained_errors():
        require_secrets()
        _refuse_foreign_app()
    return subprocess.run([sys.executable, "-m", "modal", "deploy", "app.py"], cwd=ROOT, check=False).returncode


def _refuse_foreign_app() -> None:
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


def call_policy(verb: str, *arguments: str) -> str:
    """Apply a policy verb in the deployed app, and return its output.

    Raises:
        NotFound: the app is not deployed.
        TunelineError: whatever the verb raises there.
    """
    with _explained_errors():
        outcome = modal.Function.from_name(APP, "policy_cpu").remote(verb, list(arguments))
    if outcome["state"] == "failed":
        raise errors.from_record(outcome)
    output: str = outcome["message"]
    return output


def mirror_runs(folder: Path) -> None:
    """Copy the recipe and the manifests of every run on Modal, without payload, to the same layout below `folder`."""
    runs = VOLUMES["runs"]
    with _explained_errors():
        for run in _list_names(runs, "/"):
            for file in (RECIPE, *(f"{stage}/{name}" for stage in ORDER for name in (MANIFEST, DRAFT))):
                with contextlib.suppress(FileNotFoundError, modal.exception.NotFoundError):
                    content = b"".join(runs.read_file(f"{run}/{file}"))
                    if file.endswith(MANIFEST):
                        content = _without_files(content)
                    (folder / run / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / run / file).write_bytes(content)


def _without_files(content: bytes) -> bytes:
    """Return the content of a manifest that lists no file; a damaged one as it is, for whoever reads it to say so."""
    try:
        return format_manifest(parse_manifest(content).model_copy(update={"files": {}})).encode()
    except ValueError:
        return content


def read_event_lines(run: str) -> Iterator[bytes]:
    """Yield the committed lines of a run's `events.jsonl`.

    Raises:
        NotFound: there is no such run.
    """
    with _explained_errors():
        try:
            content = b"".join(VOLUMES["runs"].read_file(f"{run}/events.jsonl"))
        except FileNotFoundError:
            raise NotFound(f"{run}: no such run on Modal; `tuneline runs ls --modal` shows those there are") from None
        yield from content.splitlines()


def cancel_run(run: str) -> str:
    """Stop a pipeline run and the stage it waits for, and return the id of the pipeline run's call.

    Raises:
        NotFound: the run is not being executed.
    """
    with _explained_errors():
        running = holder(run)
        if not running:
            raise NotFound(f"{run}: nobody is making it on Modal")
        modal.FunctionCall.from_id(running["call"]).cancel()
        for stage in ORDER:
            if call := LEASES.pop(f"{run}/{stage}", None):
                modal.FunctionCall.from_id(call).cancel(terminate_containers=True)
        release(run)
        return str(running["call"])


def _list_names(volume: modal.Volume, path: str) -> list[str]:
    return sorted(Path(entry.path).name for entry in volume.iterdir(path, recursive=False))


@contextlib.contextmanager
def _explained_errors() -> Iterator[None]:
    """Turn Modal's errors into errors of ours that name the next command."""
    try:
        yield
    except modal.exception.AuthError as error:
        raise NotFound(f"Modal does not know you: {error}; `modal token new` signs you in") from None
    except modal.exception.NotFoundError as error:
        raise NotFound(f"{error}; `modal deploy app.py` brings the app up") from None
    except modal.exception.ConnectionError as error:
        raise NotFound(f"Modal cannot be reached: {error}") from None
