"""API keys of the endpoint: added, revoked and checked without a redeploy. Only their hashes are stored.

A key is 256 random bits, so its plain SHA-256 cannot be searched; comparing hashes leaks nothing through timing.
"""

import hashlib
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path

from tuneline.core import paths
from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.files import write_atomic
from tuneline.core.locks import change_lock
from tuneline.core.paths import NAME

PREFIX = "tl-"


def add_key(owner: str) -> str:
    """Create and return a key for `owner`; it cannot be shown again.

    Raises:
        BadRequest: the owner has a key, or the name is not valid.
    """
    if not NAME.fullmatch(owner):
        raise BadRequest(f"{owner!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    key = PREFIX + secrets.token_urlsafe(32)
    with change_lock(paths.policy()):
        entries = _read_entries()
        if owner in entries:
            raise BadRequest(f"{owner} has a key; `tuneline keys revoke {owner}` first, or add one under another name")
        _write(entries | {owner: {"sha256": _hash(key), "added": datetime.now(UTC).isoformat(timespec="seconds")}})
    return key


def revoke_key(owner: str) -> None:
    """Remove the owner's key; the endpoint refuses it once it has reloaded the policy.

    Raises:
        NotFound: the owner has no key.
    """
    _read_entries_with(owner)  # a wrong name is refused before anything is written
    with change_lock(paths.policy()):
        entries = _read_entries_with(owner)
        _write({name: entry for name, entry in entries.items() if name != owner})


def list_owners() -> dict[str, str]:
    """Return owner → when their key was added (ISO 8601)."""
    return {name: entry["added"] for name, entry in _read_entries().items()}


def find_owner(key: str) -> str | None:
    """Return the owner of a key, or None if nobody has it."""
    return next((name for name, entry in _read_entries().items() if entry["sha256"] == _hash(key)), None)


def _read_entries() -> dict[str, dict[str, str]]:
    """Return owner → `sha256` and `added`."""
    file = _file()
    entries: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.exists() else {}
    return entries


def _read_entries_with(owner: str) -> dict[str, dict[str, str]]:
    entries = _read_entries()
    if owner not in entries:
        raise NotFound(f"{owner}: has no key; those with one: {', '.join(entries) or 'nobody'}")
    return entries


def _write(entries: dict[str, dict[str, str]]) -> None:
    write_atomic(_file(), json.dumps(entries, indent=1))


def _file() -> Path:
    return paths.policy() / "keys.json"


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
