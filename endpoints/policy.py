"""The verbs that change the policy (what is promoted, which keys are valid): the same on this machine and on Modal."""

import json
from collections.abc import Callable

from tuneline.endpoints.keys import add_key, list_owners, revoke_key
from tuneline.endpoints.promotion import promote, rollback


def _revoke_key(owner: str) -> str:
    revoke_key(owner)
    return ""


VERBS: dict[str, Callable[..., str]] = {
    "promote": lambda run, name, override, by: promote(run, name, override, by).model_dump_json(),
    "rollback": lambda name, by: rollback(name, by).model_dump_json(),
    "keys add": add_key,
    "keys revoke": _revoke_key,
    "keys ls": lambda: json.dumps(list_owners()),
}
"""Verb → function from string arguments to its output: JSON, or a plain string where that is enough."""
