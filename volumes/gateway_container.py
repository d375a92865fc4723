"""The gateway's container: the address of everything promoted, and of the models of `configs/gateway.yaml`.

It has no engine: it sends promoted names' requests to the containers of `Endpoint`, with the proxy token that Modal
demands there. Policy and keys are read from a copy on its own disk (`policy_copy.py`). Its request log is on a Volume
that only it writes, a file for each container; moves of traffic are written by the one writer of the policy Volume.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import modal
from starlette.applications import Starlette

from tuneline.configs.cloud import PROXY_KEY, PROXY_SECRET, Cloud
from tuneline.configs.gateway import FILE
from tuneline.core import paths
from tuneline.core.environment import read_variable
from tuneline.core.errors import from_record
from tuneline.core.terminal import guard_output
from tuneline.endpoints.gateway.app import Gateway, build_app
from tuneline.endpoints.gateway.assistant_setup import make_assistant
from tuneline.endpoints.gateway.settings_file import SettingsFile
from tuneline.endpoints.remote_engines import RemoteEngines
from tuneline.endpoints.traffic.records import Move
from tuneline.volumes.container_meter import ContainerMeter
from tuneline.volumes.conversation_copies import ConversationCopies
from tuneline.volumes.mounts import commit
from tuneline.volumes.policy_copy import PolicyCopy

log = logging.getLogger(__name__)

CONVERSATIONS = "assistant"
"""Folder of the Volume of logs with the assistant's conversations and traces."""
REFRESH_EVERY_S = 5.0
"""Between two looks at the policy Volume: keys that are revoked and what is promoted count from the next one on."""
AWAKE_S = 60.0
"""Longest time after an answer for which a container of engines counts as there."""
LEAST_AWAKE_S = 2.0
"""Requests that wait for a container look again four times a second."""
PolicyFunction = Any
"""`policy_cpu` of app.py."""


def start_gateway(engines_url: str, own_url: str, policy_function: PolicyFunction, settings: Cloud) -> Starlette:
    """Return the app, with the newest policy; an assistant asks its model at `own_url`, with its caller's key."""
    guard_output()
    policy, endpoint = PolicyCopy(), settings.endpoint
    policy.use()
    policy.copy()  # a container starts with the newest state of its Volumes
    # A container that Modal may have stopped since its last answer is looked for before it is sent anything.
    awake_s = max(LEAST_AWAKE_S, min(AWAKE_S, 30 * endpoint.scaledown_minutes))
    headers = _proxy_headers()
    engines = RemoteEngines(engines_url, headers, (endpoint.form,), awake_s=awake_s)
    engines.update()
    meter = ContainerMeter("endpoint", "gateway", settings.gateway.usd_per_hour, paths.logs())
    file, refreshes, assistant = SettingsFile(FILE), [policy.refresh], None
    if file.current.assistant.handlers:
        conversations = ConversationCopies(paths.logs() / CONVERSATIONS)
        refreshes.append(conversations.publish)
        assistant = make_assistant(
            file.current.assistant, {}, f"{own_url}/v1", conversations.folder, conversations.traces
        )
    gateway = Gateway(
        file,
        engines,
        update_engines=engines.update,
        refresh=_refresh_every(refreshes, meter, REFRESH_EVERY_S),
        move=move_by(policy_function),
        assistant=assistant,
    )
    return build_app(gateway)


def move_by(policy_function: PolicyFunction) -> Callable[..., Move | None]:
    """Return what writes a move of traffic through the one writer of the policy."""

    def move(model: str, task: str, step: str, **details: Any) -> Move | None:
        outcome = policy_function.remote("traffic move", [model, task, step, json.dumps(details)])
        if outcome["state"] == "failed":
            raise from_record(outcome)
        return Move.model_validate_json(outcome["message"]) if outcome["message"] else None

    return move


def _proxy_headers() -> dict[str, str]:
    """Return what opens the engines' address; without the token their names answer 503, and the log says why."""
    if not (read_variable(PROXY_KEY) and read_variable(PROXY_SECRET)):
        log.error(
            "no promoted model can be reached: gateway.secrets in configs/cloud.yaml names no Secret with %s and %s "
            "(docs/modal.md)",
            *(PROXY_KEY, PROXY_SECRET),
        )
    return {"Modal-Key": read_variable(PROXY_KEY), "Modal-Secret": read_variable(PROXY_SECRET)}


def _refresh_every(
    refreshes: Sequence[Callable[[], None]], meter: ContainerMeter, seconds: float
) -> Callable[[], None]:
    """Return what publishes the request log and the ledger and calls `refreshes`, at most once in so many seconds."""
    due = time.monotonic()

    def refresh_if_due() -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + seconds
            for refresh in refreshes:
                refresh()
            meter.record()
            commit("logs")

    return refresh_if_due


def find_url(endpoint: "modal.Function[Any, Any, Any]") -> str:
    """Return the address of a web endpoint of this app."""
    url = endpoint.get_web_url()
    assert url, "it is a web endpoint"
    return str(url)
