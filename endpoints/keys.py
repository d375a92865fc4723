"""Keys of the endpoint: added, revoked and checked without a redeploy. Only their hashes are kept.

A key is 256 random bits, so a plain SHA-256 of it cannot be searched; comparing hashes leaks nothing by its timing.
"""

import hashlib
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path

from tuneline.core import artifacts, paths
from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.paths import NAME

PREFIX = "tl-"


def add_key(owner: str) -> str:
    """A new key for `owner`, shown this once.

    Raises:
        BadRequest: the owner has one, or is no name.
    """
    if not NAME.fullmatch(owner):
        raise BadRequest(f"{owner!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    known = _known()
    if owner in known:
        raise BadRequest(f"{owner} has a key; `tuneline keys revoke {owner}` first, or add one under another name")
    key = PREFIX + secrets.token_urlsafe(32)
    _write(known | {owner: {"sha256": _hash(key), "added": datetime.now(UTC).isoformat(timespec="seconds")}})
    return key


def revoke_key(owner: str) -> None:
    """From the endpoint's next look on, the owner's key opens nothing.

    Raises:
        NotFound: the owner has none.
    """
    known = _known()
    if owner not in known:
        raise NotFound(f"{owner}: has no key; those with one: {', '.join(known) or 'nobody'}")
    _write({name: entry for name, entry in known.items() if name != owner})


def owners() -> dict[str, str]:
    """Who has a key, and since when."""
    return {name: entry["added"] for name, entry in _known().items()}


def owner_of(key: str) -> str | None:
    """Whose key this is; None if nobody's."""
    return next((name for name, entry in _known().items() if entry["sha256"] == _hash(key)), None)


def _known() -> dict[str, dict[str, str]]:
    file = _file()
    known: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.exists() else {}
    return known


def _write(known: dict[str, dict[str, str]]) -> None:
    _file().parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_atomic(_file(), json.dumps(known, indent=1))


def _file() -> Path:
    return paths.policy() / "keys.json"


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
