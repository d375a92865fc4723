"""The keys that open the gateway, looked up by their hash; a changed file counts from the next request on."""

import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneline.core import paths

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """Who calls, and what they may."""

    owner: str = ""
    models: tuple[str, ...] = ()
    """Names they may ask for; empty: all."""
    tasks: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    until: datetime | None = None
    """When it ends."""
    operator: bool = False
    """Whether the deployed page shows its owner costs, the traffic of all keys, and the runs."""


EVERYBODY = Key()
"""Where no key is needed."""


class KeyIndex:
    """`keys.json`, read again when it has changed. One that cannot be read opens nothing new and closes nothing."""

    def __init__(self) -> None:
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}
        """By SHA-256."""
        self._owners: dict[str, Key] = {}

    def find(self, secret: str) -> Key | None:
        """Return the key, or None if nobody has it or it has ended.

        It is found by its SHA-256, so the time that takes says nothing of any key.
        """
        self._refresh()
        key = self._keys.get(hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest())
        return key if key and (key.until is None or datetime.now(UTC) < key.until) else None

    def named(self, owner: str) -> Key | None:
        """Return the key of an owner, or None if they have none any more."""
        return self._owners.get(owner)

    def _refresh(self) -> None:
        file = paths.policy() / "keys.json"
        try:
            status = file.stat()
        except OSError:
            self._stamp, self._keys, self._owners = None, {}, {}
            return
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        try:
            self._keys = _read(file)
            self._owners = {key.owner: key for key in self._keys.values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("%s cannot be read (%s); keeping the previous keys", file, type(error).__name__)
            if isinstance(
                error, OSError
            ):  # for now, as with too many open files: what it says must not wait for an edit
                return
        self._stamp = stamp


def _read(file: Path) -> dict[str, Key]:
    """Return SHA-256 → key."""
    keys = {}
    for owner, entry in json.loads(file.read_text(encoding="utf-8")).items():
        key = Key(
            owner,
            tuple(entry.get("models", ())),
            tuple(entry.get("tasks", ())),
            entry.get("requests_per_minute"),
            entry.get("tokens_per_minute"),
            entry.get("usd_per_day"),
            entry.get("usd_per_month"),
            _moment(entry.get("until")),
            entry.get("operator") is True,
        )
        keys[entry["sha256"]] = key
        if previous := entry.get("previous"):  # after a rotation the key of before opens for a while
            keys[previous["sha256"]] = Key(**{**vars(key), "until": _moment(previous["until"])})
    return keys


def _moment(text: Any) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
