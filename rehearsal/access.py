"""Who may use a control plane: whoever has its token, or an address that it signed. It runs what it is told to run."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from tuneline.core.errors import BadRequest

TOKEN_BYTES = 32


class Access:
    """The token of one control plane, made at its start, and signatures of addresses that are used without it."""

    def __init__(self) -> None:
        self.token = f"as-{secrets.token_urlsafe(TOKEN_BYTES)}"

    def is_token(self, text: str) -> bool:
        """Return whether `text` is the token; the time it takes says nothing about the token."""
        return hmac.compare_digest(text.encode(), self.token.encode())

    def sign(self, path: str) -> str:
        """Return the signature of a path."""
        return hmac.new(self.token.encode(), path.encode(), hashlib.sha256).hexdigest()

    def is_signature(self, text: str, path: str) -> bool:
        """Return whether `text` is the signature of `path`."""
        return hmac.compare_digest(text.encode(), self.sign(path).encode())


def claim_folder(folder: Path) -> None:
    """Make the folder of a control plane's state, or close an existing one to all but its owner.

    Raises:
        BadRequest: others could have put something there, and a control plane runs what is in its folder.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status, remedy = folder.stat(), "use another with --state FOLDER"
    if status.st_uid != os.geteuid():
        raise BadRequest(f"{folder} belongs to another user, and a rehearsal runs what is in it; {remedy}")
    if status.st_mode & 0o022:
        raise BadRequest(
            f"{folder}: others may write there, and a rehearsal runs what is in it; {remedy}, or, if you know what is "
            f"in it, `chmod 700 {folder}`"
        )
    folder.chmod(0o700)
