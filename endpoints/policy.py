"""Every change of what is served and whose keys count, by its words: the same here and on Modal."""

import json
from collections.abc import Callable

from tuneline.endpoints.keys import add_key, owners, revoke_key
from tuneline.endpoints.promotion import promote, rollback


def _revoked(owner: str) -> str:
    revoke_key(owner)
    return ""


VERBS: dict[str, Callable[..., str]] = {
    "promote": lambda run, name, override, by: promote(run, name, override, by).model_dump_json(),
    "rollback": lambda name, by: rollback(name, by).model_dump_json(),
    "keys add": add_key,
    "keys revoke": _revoked,
    "keys ls": lambda: json.dumps(owners()),
}
"""Words in, text out (JSON where there is more than a word to say)."""
