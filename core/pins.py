"""The commit each hub model is held at: a small file a model beside the models, written once a fetch was verified.

Until then a base is `unverified`, and a recipe has to name its commit. A file each, so that no two fetches share one.
"""

import json
from pathlib import Path

from tuneline.core import paths


def pin_of(repo: str) -> str | None:
    """The commit `repo` (owner/name) is pinned to here; None while it is unverified."""
    try:
        return str(json.loads(_file(repo).read_text(encoding="utf-8"))["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pin(repo: str, revision: str, *, anew: bool = False) -> None:
    """Hold `repo` at a commit whose files were verified; what is pinned stays, unless `anew`."""
    from datetime import UTC, datetime

    from tuneline.core.artifacts import write_atomic  # not needed to read a pin, as each plan does

    if anew or pin_of(repo) is None:
        file = _file(repo)
        file.parent.mkdir(parents=True, exist_ok=True)
        verified = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomic(file, json.dumps({"revision": revision, "verified": verified}))


def _file(repo: str) -> Path:
    return paths.models() / "pins" / f"{repo.lower().replace('/', '--')}.json"
