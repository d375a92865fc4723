"""A repository of a hub at a commit, and what it holds there."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.models import FAMILIES
from tuneline.core.errors import BadRecipe
from tuneline.stages.fetch.hub_requests import ANSWER_S, asked, endpoint, explained, token

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Hub:
    """A repository of a Hugging Face hub at one commit."""

    repo: str
    revision: str

    @property
    def settings(self) -> dict[str, str]:
        return {"base": self.repo.replace("/", "--"), "revision": self.revision}

    @property
    def slug(self) -> str:
        return f"{self.repo.replace('/', '--')}@{self.revision[:12]}"


def pinned(repo: str, revision: str | None, folder: Path) -> str:
    """`revision` if it is a whole commit, else BadRecipe; `folder` is where `repo` would be on this machine."""
    how = f"`git ls-remote https://huggingface.co/{repo} main` prints the latest"
    if revision is None:
        raise BadRecipe(
            f"base: {repo!r}: there is no folder {folder}, so this is a hub id, and a hub id needs its commit, "
            f"or the result could change from day to day;\n{how}; write it as `revision: <40 hex digits>`"
        )
    if not COMMIT.fullmatch(revision):
        raise BadRecipe(
            f"revision: {revision!r}: a whole commit (40 hex digits), not a branch, tag or short hash;\n{how}"
        )
    return revision


@dataclass(frozen=True)
class HubFiles:
    """What the hub says it holds at a commit: all names, and sizes and hashes of the files taken."""

    source: Hub
    names: list[str]
    family: Any
    """`model_type`, or one of ours where the hub does not say: the downloaded config.json is looked at again."""
    sizes: dict[str, int]
    sha256: dict[str, str]
    """Of files kept in LFS or Xet."""
    git: dict[str, str]
    """Of the others: SHA-1 of git's blob."""

    @classmethod
    def listed(cls, source: Hub, is_taken: Callable[[str], bool]) -> "HubFiles":
        from huggingface_hub import HfApi

        with explained(source):
            api = HfApi(endpoint=endpoint(), token=token())
            info = asked(
                lambda: api.model_info(source.repo, revision=source.revision, files_metadata=True, timeout=ANSWER_S)
            )
        siblings = info.siblings or []
        taken = [s for s in siblings if is_taken(s.rfilename)]
        return cls(
            source,
            names=[s.rfilename for s in siblings],
            family=(info.config or {}).get("model_type", FAMILIES[0]),
            sizes={s.rfilename: s.size or 0 for s in taken},
            sha256={s.rfilename: s.lfs.sha256 for s in taken if s.lfs},
            git={s.rfilename: s.blob_id for s in taken if s.blob_id and not s.lfs},
        )


def refuse_family(where: str, family: Any) -> None:
    """Raise BadRecipe unless `family` is one that Tuneline trains."""
    if family not in FAMILIES:
        raise BadRecipe(f"{where} {family!r}: Tuneline trains Llamas only ({', '.join(FAMILIES)})")


def commit_of(repo: str, revision: str | None) -> str:
    """The commit a branch or tag of `repo` is at now; the main branch's, if none is named.

    Raises:
        As `fetch`, for what the hub refuses.
    """
    from huggingface_hub import HfApi

    source, api = Hub(repo, revision or "main"), HfApi(endpoint=endpoint(), token=token())
    with explained(source):
        info = asked(lambda: api.model_info(repo, revision=source.revision, timeout=ANSWER_S))
    return str(info.sha)
