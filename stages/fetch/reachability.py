"""Whether a base on a hub is there and may be read, asked by one HEAD request before anything is started."""

import urllib.error
import urllib.request

from tuneline.core.errors import BadRequest, NotFound
from tuneline.stages.fetch.hub_requests import endpoint
from tuneline.stages.fetch.hub_source import HubSource

TIMEOUT_S = 10.0
PUBLIC_HUB = "https://huggingface.co"
REASON = "X-Error-Code"
"""Header with the hub's reason (huggingface_hub/utils/_http.py): GatedRepo, RevisionNotFound, …"""


def refuse_unreachable(source: HubSource, *, has_token: bool) -> None:
    """Raise for a base that a machine with or without a token could certainly not fetch; without network, do nothing.

    A token is not sent: it belongs to the machine that fetches.

    Raises:
        NotFound: there is no such commit. BadRequest: the base is gated or private, and there will be no token.
    """
    url = f"{endpoint() or PUBLIC_HUB}/{source.repo}/resolve/{source.revision}/config.json"
    reason = _ask(url)
    if reason == "RevisionNotFound":
        raise NotFound(f"revision: {source.revision}: {source.repo} has no such commit; see {PUBLIC_HUB}/{source.repo}")
    if reason in ("GatedRepo", "RepoNotFound") and not has_token:
        what = "is gated" if reason == "GatedRepo" else "is private, or does not exist"
        raise BadRequest(
            f"base: {source.repo}: {what}, and no token is sent: accept its licence at {PUBLIC_HUB}/{source.repo}, "
            "write `secrets: [huggingface]` in configs/cloud.yaml, and make the secret tuneline-huggingface "
            "(docs/modal.md says how)"
        )


def _ask(url: str) -> str | None:
    """Return the hub's reason for a refusal, or None: it is there, or nobody can say."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return error.headers.get(REASON)
    except OSError:
        return None
