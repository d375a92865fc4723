"""What a hub repository holds at a commit: file names, sizes and hashes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuneline.configs.models import FAMILIES
from tuneline.stages.fetch.hub_requests import RESPONSE_TIMEOUT_S, endpoint, explained_refusals, token, with_retries
from tuneline.stages.fetch.hub_source import HubSource


@dataclass(frozen=True)
class HubFiles:
    """The files of a repository at a commit: all names, and sizes and hashes of those that are fetched."""

    source: HubSource
    names: list[str]
    family: Any
    """`model_type`; the first supported family if the hub does not give it (config.json is checked once downloaded)."""
    sizes: dict[str, int]
    sha256: dict[str, str]
    """SHA-256 of files stored in LFS or Xet."""
    git_sha1: dict[str, str]
    """SHA-1 of the git blob, for all other files."""

    @classmethod
    def request(cls, source: HubSource, is_fetched: Callable[[str], bool]) -> "HubFiles":
        """Ask the hub for the files of `source`; `is_fetched` selects by name those whose sizes and hashes count."""
        from huggingface_hub import HfApi

        with explained_refusals(source):
            api = HfApi(endpoint=endpoint(), token=token())
            info = with_retries(
                lambda: api.model_info(
                    source.repo, revision=source.revision, files_metadata=True, timeout=RESPONSE_TIMEOUT_S
                )
            )
        siblings = info.siblings or []
        fetched = [s for s in siblings if is_fetched(s.rfilename)]
        return cls(
            source,
            names=[s.rfilename for s in siblings],
            family=(info.config or {}).get("model_type", FAMILIES[0]),
            sizes={s.rfilename: s.size or 0 for s in fetched},
            sha256={s.rfilename: s.lfs.sha256 for s in fetched if s.lfs},
            git_sha1={s.rfilename: s.blob_id for s in fetched if s.blob_id and not s.lfs},
        )


def resolve_commit(repo: str, revision: str | None) -> str:
    """Return the commit that a branch or tag of `repo` points to now; None means the main branch.

    Raises:
        As `fetch`, if the hub refuses.
    """
    from huggingface_hub import HfApi

    source, api = HubSource(repo, revision or "main"), HfApi(endpoint=endpoint(), token=token())
    with explained_refusals(source):
        info = with_retries(lambda: api.model_info(repo, revision=source.revision, timeout=RESPONSE_TIMEOUT_S))
    return str(info.sha)
