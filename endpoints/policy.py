"""The verbs that change the policy (promotions, keys, traffic): the same on this machine and on Modal."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter

from tuneline.configs.gateway import Step, read_gateway
from tuneline.core import paths
from tuneline.endpoints.keys import add_key, change_key, list_owners, revoke_key, rotate_key
from tuneline.endpoints.promotion import promote, rollback
from tuneline.endpoints.traffic.records import move

if TYPE_CHECKING:
    from tuneline.endpoints.traffic.rollouts import Rollouts


def _revoke_key(owner: str) -> str:
    revoke_key(owner)
    return ""


def _move(model: str, task: str, step: str, details: str) -> str:
    """Return the move as JSON, or an empty text if somebody was faster; `details` are `move`'s other arguments."""
    made = move(model, task, cast(Step, step), **json.loads(details))
    return made.model_dump_json() if made else ""


def _rollouts() -> "Rollouts":
    from tuneline.endpoints.traffic.rollouts import Rollouts

    settings = read_gateway()
    return Rollouts(lambda: settings, paths.logs())


def _list_rollouts() -> str:
    """Return every rollout as JSON, a list of `Rollout`."""
    from tuneline.endpoints.traffic.rollouts import Rollout

    return TypeAdapter(list[Rollout]).dump_json(_rollouts().look()).decode()


def _advance(model: str, task: str, by: str, override: str) -> str:
    from tuneline.endpoints.traffic.rollouts import advance

    return advance(_rollouts(), model, task, by, override).model_dump_json()


def _hold(model: str, task: str, by: str, why: str) -> str:
    from tuneline.endpoints.traffic.rollouts import hold

    return hold(_rollouts(), model, task, by, why).model_dump_json()


def _back(model: str, task: str, by: str, why: str, one_step: str) -> str:
    from tuneline.endpoints.traffic.rollouts import back

    return back(_rollouts(), model, task, by, why, one_step=bool(one_step)).model_dump_json()


VERBS: dict[str, Callable[..., str]] = {
    "promote": lambda run, name, override, by: promote(run, name, override, by).model_dump_json(),
    "rollback": lambda name, by: rollback(name, by).model_dump_json(),
    "keys add": add_key,
    "keys change": change_key,
    "keys rotate": rotate_key,
    "keys revoke": _revoke_key,
    "traffic ls": _list_rollouts,
    "traffic advance": _advance,
    "traffic hold": _hold,
    "traffic back": _back,
    "traffic move": _move,
    "keys ls": lambda: json.dumps(list_owners()),
}
"""Verb → function from string arguments to its output: JSON, or a plain string where that is enough."""
