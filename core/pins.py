"""The commit each hub model is pinned to: one small file per model, written after a verified fetch.

Until then a base is `unverified`, and a recipe has to name its commit. Models have a file each so that no two fetches
write the same one.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from tuneline.core import paths
from tuneline.core.files import write_atomic


def read_pin(repo: str) -> str | None:
    """Return the commit that `repo` (owner/name) is pinned to here, or None while it is unverified."""
    try:
        return str(json.loads(_file(repo).read_text(encoding="utf-8"))["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pin(repo: str, revision: str, *, replace: bool = False) -> None:
    """Pin `repo` to a commit whose files were verified; an existing pin is kept unless `replace`."""
    if replace or read_pin(repo) is None:
        file = _file(repo)
        file.parent.mkdir(parents=True, exist_ok=True)
        verified = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomic(file, json.dumps({"revision": revision, "verified": verified}))


def _file(repo: str) -> Path:
    return paths.models() / "pins" / f"{repo.lower().replace('/', '--')}.json"
