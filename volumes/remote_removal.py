"""Runs on Modal listed for removal, and removed, by the deployed app; paths are below the Volume of runs."""

import json
from collections.abc import Sequence
from pathlib import Path

from tuneline.stages.runs.removal import Removable
from tuneline.volumes.remote import call_policy
from tuneline.volumes.run_removal import WHOLE


def list_removable_on_modal(run: str, kinds: Sequence[str]) -> list[Removable]:
    """Return what there is of these kinds in a run on Modal, or the run itself if there are no kinds.

    Raises:
        NotFound: there is no such run, or the app is not deployed. Locked: a call works on it.
        BadRequest: it is in use.
    """
    return _parse(call_policy("runs removable", run, _join(kinds)))


def remove_on_modal(run: str, kinds: Sequence[str], items: Sequence[Removable]) -> None:
    """Remove what `list_removable_on_modal` returned.

    Raises:
        Locked: a call works on the run.
    """
    call_policy("runs rm", run, _join(kinds), _format(items))


def list_garbage_on_modal() -> list[Removable]:
    """Return what could go of all runs on Modal, each with the reason."""
    return _parse(call_policy("runs garbage"))


def remove_garbage_on_modal(items: Sequence[Removable]) -> list[Removable]:
    """Remove what `list_garbage_on_modal` returned, and return what was left, since a call works on its run by now."""
    removed = {item.path for item in _parse(call_policy("runs gc", _format(items)))}
    return [item for item in items if item.path not in removed]


def _join(kinds: Sequence[str]) -> str:
    return ",".join(kinds) or WHOLE


def _format(items: Sequence[Removable]) -> str:
    return json.dumps([str(item.path) for item in items])


def _parse(listed: str) -> list[Removable]:
    return [Removable(**item | {"path": Path(item["path"])}) for item in json.loads(listed)]
