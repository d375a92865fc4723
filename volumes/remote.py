"""What the `tuneline` command does on Modal: deploy the app, read and cancel runs, change the deployed app's policy."""

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import modal
from modal.types import FileEntryType
from pydantic import ValidationError

from tuneline.configs.cloud import PAGE, Cloud, Endpoint, GatewayContainer, PageContainer, cloud
from tuneline.configs.gateway import read_gateway
from tuneline.core import errors
from tuneline.core.artifacts import DRAFT, MANIFEST
from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.events import FILE as EVENTS
from tuneline.core.ledger import FOLDER as LEDGER
from tuneline.core.paths import ROOT
from tuneline.core.spending import FOLDER as SPENDING
from tuneline.core.terminal import echo
from tuneline.endpoints.promotion import Promotion
from tuneline.endpoints.request_log.writer import FOLDER as REQUESTS
from tuneline.endpoints.run_list import summarize_runs
from tuneline.stages.line import ORDER
from tuneline.stages.plan.stage_bounds import STAGES
from tuneline.stages.runs.summary import RunSummary
from tuneline.volumes.assistant_files import list_assistant_files
from tuneline.volumes.cloud_secrets import require_secrets
from tuneline.volumes.leases import holder, release
from tuneline.volumes.mounts import VOLUMES
from tuneline.volumes.single_calls import cancel_awaited, has_ended, key_of_successor

APP = "tuneline"
_COMMAND = re.compile(r"`(tuneline (?:runs|promote|rollback|keys|traffic) [^`]*)`")


def deploy() -> int:
    """Run `modal deploy app.py` and return its exit code, after checks that it does not make.

    Raises:
        BadRequest: another app has the name and would be replaced.
        BadRecipe: a Secret or a file of the assistant does not exist, or several gateways could not work together.
    """
    settings = cloud()
    gateway = read_gateway()
    settings.gateway.check_storage(gateway.limits.storage)
    settings.gateway.check_assistant(gateway.assistant.handlers)
    list_assistant_files(gateway.assistant)
    with explained_errors():
        require_secrets()
        _refuse_foreign_app()
    for line in describe_deployment(settings):
        echo(line)
    return subprocess.run([sys.executable, "-m", "modal", "deploy", "app.py"], cwd=ROOT, check=False).returncode


def describe_deployment(settings: Cloud) -> list[str]:
    """Return what is brought up, and what it costs at most, a line each."""
    gateway, endpoint = settings.gateway, settings.endpoint
    request = (
        f" if none takes more than its {endpoint.cores:g} cores and {endpoint.memory_gib:g} GiB, which are no limits"
    )
    lines = [_describe_containers("gateway", gateway), _describe_containers("engines", endpoint) + request]
    if settings.ui:
        lines.append(_describe_containers("page", PAGE))
    if not gateway.secrets:
        lines.append(
            "the gateway reaches no promoted model: gateway.secrets in configs/cloud.yaml names no Secret with the "
            "engines' proxy token (docs/modal.md)"
        )
    return lines


def _describe_containers(name: str, containers: GatewayContainer | Endpoint | PageContainer) -> str:
    usd_per_day = 24 * containers.usd_per_hour
    return (
        f"{name}: {containers.usd_per_hour:.3f} USD per hour and running container: "
        f"{containers.min_containers * usd_per_day:.2f} USD per day without requests, "
        f"{containers.max_containers * usd_per_day:.2f} at most"
    )


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
    with explained_errors():
        outcome = modal.Function.from_name(APP, "policy_cpu").remote(verb, list(arguments))
    if outcome["state"] == "failed":
        raise errors.from_record(outcome | {"message": _advise_for_modal(outcome["message"])})
    output: str = outcome["message"]
    return output


def _advise_for_modal(message: str) -> str:
    """Return an error of the app with `--modal` in the commands that it advises: there it is said of "this machine"."""
    return _COMMAND.sub(lambda found: found[0] if "--modal" in found[0] else f"`{found[1]} --modal`", message)


def list_modal_runs() -> list[RunSummary]:
    """Return the runs on Modal, the one that was last worked on first."""
    with tempfile.TemporaryDirectory() as folder:
        mirror_runs(Path(folder))
        with explained_errors():
            names = {name: is_running_on_modal(name) for name in _list_names(VOLUMES["runs"], "/")}
            served = _read_served_names()
        return summarize_runs(Path(folder), lambda run: names[run.name], served, "modal")


def is_running_on_modal(run: str) -> bool:
    """Return whether a live call makes the run; a lease outlives a call that was killed by minutes."""
    running = holder(run)
    return running is not None and not has_ended(modal.FunctionCall.from_id(running["call"]))


def _read_served_names() -> dict[str, list[str]]:
    """Return run → the names that it serves now, by the policy Volume."""
    names: dict[str, list[str]] = {}
    for path in _list_paths(VOLUMES["policy"], "models"):
        with contextlib.suppress(ValidationError):
            promotion = Promotion.model_validate_json(_read(VOLUMES["policy"], path))
            names.setdefault(promotion.current.run, []).append(promotion.name)
    return names


def mirror_runs(folder: Path, runs: Sequence[str] = ()) -> None:
    """Copy what is known of runs on Modal, by default of all, without payload, to the same layout below `folder`.

    That is the recipe, manifests and drafts, the record of each attempt, the events, and what was measured later.
    """
    volume = VOLUMES["runs"]
    with explained_errors():
        for run in runs or _list_names(volume, "/"):
            for path in _list_paths(volume, run, recursive=True):
                if _is_known_of_run(path):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(_read(volume, path))


def mirror_ledger(folder: Path) -> tuple[Path, Path, Path]:
    """Copy the ledgers on Modal, and the gateway's request log, below `folder`; return those of runs, logs, scores."""
    with explained_errors():
        for name, parts in (("runs", (LEDGER,)), ("logs", (LEDGER, REQUESTS)), ("scores", (LEDGER,))):
            for path in (path for part in parts for path in _list_paths(VOLUMES[name], part)):
                (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / name / path).write_bytes(_read(VOLUMES[name], path))
        for run in _list_names(VOLUMES["runs"], "/"):  # attempts that are older than the ledger
            for path in _list_paths(VOLUMES["runs"], f"{run}/{SPENDING}"):
                (folder / "runs" / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / "runs" / path).write_bytes(_read(VOLUMES["runs"], path))
    return folder / "runs", folder / "logs", folder / "scores"


def mirror_scores(folder: Path) -> None:
    """Copy what the scheduled evaluation wrote on Modal to the same layout below `folder`."""
    with explained_errors():
        for name in _list_names(VOLUMES["scores"], "/"):
            for path in (path for path in _list_paths(VOLUMES["scores"], name) if path.endswith(".json")):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(_read(VOLUMES["scores"], path))


def _is_known_of_run(path: str) -> bool:
    match Path(path).parts[1:]:
        case [name]:
            return name.endswith(".json") or name == EVENTS
        case [stage, name]:
            return (stage in ORDER and name in (MANIFEST, DRAFT)) or (stage == SPENDING and name.endswith(".json"))
    return False


def _list_paths(volume: modal.Volume, folder: str, *, recursive: bool = False) -> list[str]:
    """Return the paths of the files in a folder of a Volume; none if there is no such folder."""
    with contextlib.suppress(FileNotFoundError, modal.exception.NotFoundError):
        entries = volume.iterdir(folder, recursive=recursive)
        return [entry.path for entry in entries if entry.type == FileEntryType.FILE]
    return []


def _read(volume: modal.Volume, path: str) -> bytes:
    """Return a file's content; empty if it was removed since it was listed."""
    with contextlib.suppress(FileNotFoundError, modal.exception.NotFoundError):
        return b"".join(volume.read_file(path))
    return b""


def read_events(run: str) -> bytes:
    """Return what is committed of a run's `events.jsonl`.

    Raises:
        NotFound: there is no such run.
    """
    with explained_errors():
        try:
            return b"".join(VOLUMES["runs"].read_file(f"{run}/{EVENTS}"))
        except FileNotFoundError:
            raise NotFound(f"{run}: no such run on Modal; `tuneline runs ls --modal` lists the runs") from None


def cancel_run(run: str) -> str:
    """Stop a pipeline run and the stage it waits for, and return the id of the pipeline run's call.

    Raises:
        NotFound: the run is not being executed.
    """
    with explained_errors():
        running = holder(run)
        if not running:
            raise NotFound(f"{run}: it is not running on Modal")
        release(run)
        cancel_awaited(key_of_successor(running["call"]))
        modal.FunctionCall.from_id(running["call"]).cancel()
        for stage in STAGES:
            cancel_awaited(f"{run}/{stage}")
        return str(running["call"])


def _list_names(volume: modal.Volume, path: str) -> list[str]:
    return sorted(Path(entry.path).name for entry in volume.iterdir(path, recursive=False))


@contextlib.contextmanager
def explained_errors() -> Iterator[None]:
    """Turn Modal's errors into errors of ours that name the next command."""
    try:
        yield
    except modal.exception.AuthError as error:
        raise NotFound(f"not signed in to Modal: {error}; run `modal token new`") from None
    except modal.exception.NotFoundError as error:
        raise NotFound(f"{error}; deploy the app with `modal deploy app.py`") from None
    except modal.exception.ConnectionError as error:
        raise NotFound(f"Modal cannot be reached: {error}") from None
