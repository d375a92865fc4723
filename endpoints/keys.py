"""API keys of the gateway: added, revoked and checked without a redeploy. Only their hashes are stored.

A key is 256 random bits, so its plain SHA-256 cannot be searched; comparing hashes leaks nothing through timing.
"""

import hashlib
import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tuneline.configs.section import explain_first
from tuneline.core import paths
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.core.files import write_atomic
from tuneline.core.locks import change_lock
from tuneline.core.paths import NAME
from tuneline.core.user_files import parse_json, read_json

PREFIX = "tl-"
MOST = 10**9
"""Of a limit: what is above it is no limit, and is left out."""
MOST_HOURS = 24 * 366
"""That a key opens after its rotation."""


class KeySettings(BaseModel):
    """What a key may, beyond opening the gateway; what is not set is not limited."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    requests_per_minute: int | None = Field(None, gt=0, le=MOST)
    tokens_per_minute: int | None = Field(None, gt=0, le=MOST)
    usd_per_day: float | None = Field(None, gt=0, le=MOST)
    usd_per_month: float | None = Field(None, gt=0, le=MOST)
    until: AwareDatetime | None = None
    """When it ends."""
    operator: bool = False
    """Whether its owner may watch the traffic of all keys and the runs on the deployed page, and hold traffic there."""


def add_key(owner: str, settings: str = "{}") -> str:
    """Create and return a key for `owner`; it cannot be shown again. `settings` are a KeySettings as JSON.

    Raises:
        BadRequest: the owner has a key, the name is not valid, or the settings are not.
    """
    limits = _read_settings(settings)
    if not NAME.fullmatch(owner):
        raise BadRequest(f"{owner!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    key = PREFIX + secrets.token_urlsafe(32)
    with change_lock(paths.policy()):
        entries = _read_entries()
        if owner in entries:
            raise BadRequest(
                f"{owner} already has a key; `tuneline keys rotate {owner}` replaces it, or use another name"
            )
        _write(entries | {owner: {"sha256": _hash(key), "added": _now()} | limits})
    return key


def change_key(owner: str, settings: str) -> str:
    """Change what the owner's key may from the next request on, and return all that it may then, as JSON.

    `settings` are some of a KeySettings as JSON; what is not among them stays, and null ends a limit.

    Raises:
        NotFound: the owner has no key. BadRequest: the settings are not valid.
    """
    _read_settings(settings, ends=True)
    _read_entries_with(owner)
    with change_lock(paths.policy()):
        entries = _read_entries_with(owner)
        limits = {name: value for name, value in entries[owner].items() if name in KeySettings.model_fields}
        limits = _read_settings(json.dumps(limits | json.loads(settings)), ends=True)
        kept = {name: value for name, value in entries[owner].items() if name not in KeySettings.model_fields}
        _write(entries | {owner: kept | limits})
    return json.dumps(limits)


def rotate_key(owner: str, hours: str = "24") -> str:
    """Create and return another key for `owner`; the one before it opens for `hours` more.

    Raises:
        NotFound: the owner has no key. BadRequest: no number of hours.
    """
    if not hours.isdecimal() or len(hours) > len(str(MOST_HOURS)) or int(hours) > MOST_HOURS:
        raise BadRequest(f"--hours {hours[:20]}: a whole number, {MOST_HOURS} at most")
    _read_entries_with(owner)
    key = PREFIX + secrets.token_urlsafe(32)
    with change_lock(paths.policy()):
        entries = _read_entries_with(owner)
        until = (datetime.now(UTC) + timedelta(hours=int(hours))).isoformat(timespec="seconds")
        previous = {"sha256": entries[owner]["sha256"], "until": until}
        _write(entries | {owner: entries[owner] | {"sha256": _hash(key), "added": _now(), "previous": previous}})
    return key


def revoke_key(owner: str) -> None:
    """Remove the owner's key; the gateway refuses it from its next look at the policy on.

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


def _read_settings(text: str, *, ends: bool = False) -> dict[str, Any]:
    """Return the limits in a text; with `ends` one may be null, which is none."""
    try:
        settings = parse_json(text)
        if ends and isinstance(settings, dict):
            settings = {name: value for name, value in settings.items() if value is not None}
        return KeySettings.model_validate_json(json.dumps(settings)).model_dump(mode="json", exclude_defaults=True)
    except ValidationError as error:
        raise BadRequest(explain_first(error)) from None
    except ValueError as error:
        raise BadRequest(f"the settings of a key: not JSON: {error}") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_entries() -> dict[str, dict[str, Any]]:
    """Return owner → `sha256`, `added`, a `previous` key after a rotation, and the settings of the key.

    Raises:
        StageFailed: the file is damaged.
    """
    file = _file()
    if not file.exists():
        return {}
    entries: dict[str, dict[str, Any]] = read_json(file, StageFailed)
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        raise StageFailed(f"{file}: damaged; restore it from a copy, or remove it and add the keys again")
    return entries


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("sha256", "added"))


def _read_entries_with(owner: str) -> dict[str, dict[str, Any]]:
    entries = _read_entries()
    if owner not in entries:
        raise NotFound(f"{owner}: has no key; owners with a key: {', '.join(entries) or 'none'}")
    return entries


def _write(entries: dict[str, dict[str, Any]]) -> None:
    write_atomic(_file(), json.dumps(entries, indent=1))


def _file() -> Path:
    return paths.policy() / "keys.json"


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
