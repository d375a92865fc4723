"""A base on a Hugging Face hub: its repository and the commit it is pinned to."""

import re
from dataclasses import dataclass

from tuneline.configs.models import registry
from tuneline.core.errors import BadRecipe

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSource:
    """A repository of a Hugging Face hub at one commit."""

    repo: str
    revision: str

    @property
    def settings(self) -> dict[str, str]:
        """The settings that enter the artifact's fingerprint."""
        return {"base": self.repo.replace("/", "--"), "revision": self.revision}

    @property
    def slug(self) -> str:
        """Name of its folder in the model store."""
        return f"{self.repo.replace('/', '--')}@{self.revision[:12]}"


def require_commit(repo: str, revision: str | None) -> str:
    """Return `revision` if it is a full commit hash.

    Raises:
        BadRecipe: there is no revision, or it is a branch, a tag or a short hash.
    """
    key = registry().find(repo)
    gated = " (a gated one asks for your user name there, and for HF_TOKEN as the password)" if _is_gated(key) else ""
    remedy = f"`git ls-remote https://huggingface.co/{repo} main` prints the latest{gated}"
    pin = f"or let `tuneline models download {repo}` fetch it and pin its commit"
    if revision is None:
        known = "" if key else "there is no such folder here, so this is a hub id, and "
        raise BadRecipe(
            f"base: {repo!r}: {known}a hub id needs its commit, or the result could change from day to day;\n"
            f"{remedy}; write it as `revision: <40 hex digits>`, {pin}"
        )
    if not COMMIT.fullmatch(revision):
        raise BadRecipe(
            f"revision: {revision!r}: a whole commit (40 hex digits), not a branch, tag or short hash;\n{remedy}"
        )
    return revision


def _is_gated(key: str | None) -> bool:
    return key is not None and registry().models[key].gated
