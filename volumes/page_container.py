"""The page's container (`ui: true` in cloud.yaml): the page beside the gateway, for the owners of its keys.

It asks the gateway at its public address, as any client does. Keys and traffic are read from a copy of the policy
Volume on its own disk (`policy_copy.py`), moves of traffic are written by the one writer of that Volume. Conversations
and votes are on a Volume that only it writes.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from tuneline.configs.cloud import PAGE
from tuneline.core import paths
from tuneline.core.terminal import guard_output
from tuneline.volumes.container_meter import ContainerMeter
from tuneline.volumes.gateway_container import PolicyFunction, move_by
from tuneline.volumes.mounts import VOLUMES, commit
from tuneline.volumes.policy_copy import PolicyCopy

if TYPE_CHECKING:
    from tuneline.stages.runs.summary import RunSummary

RUNS_EVERY_S = 30.0
"""Between two looks at the runs of the runs Volume, which reads some files of each."""


def start_page(url: str, gateway_url: str, policy_function: PolicyFunction) -> ASGIApp:
    """Return the app of the page that is served at `url`, with the newest policy."""
    from tuneline.ui.deployed_page import build_deployed_page
    from tuneline.ui.run_sources import RemoteRuns
    from tuneline.volumes.remote import list_modal_runs, read_events

    guard_output()
    policy = PolicyCopy()
    policy.use()
    policy.copy()  # a container starts with the newest state of its Volumes
    meter = ContainerMeter("endpoint", "page", PAGE.usd_per_hour, paths.logs())

    def refresh() -> None:
        commit("ui")
        policy.refresh()
        if meter.record():
            commit("logs")
        VOLUMES["logs"].reload()

    runs = RemoteRuns(_at_most_every(RUNS_EVERY_S, list_modal_runs), read_events)
    return build_deployed_page(url, gateway_url, move_by(policy_function), runs, refresh)


def _at_most_every(seconds: float, list_runs: "Callable[[], list[RunSummary]]") -> "Callable[[], list[RunSummary]]":
    """Return what lists the runs, and repeats its answer for some seconds."""
    last: list[RunSummary] = []
    due = 0.0

    def list_or_repeat() -> "list[RunSummary]":
        nonlocal last, due
        if time.monotonic() >= due:
            due = time.monotonic() + seconds
            last = list_runs()
        return last

    return list_or_repeat
