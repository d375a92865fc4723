"""FlashAttention's compiled kernel from the hub: an image holds exactly one commit, which manifests name.

`python -m tuneline.core.attention_kernels FILE REPOSITORY[@COMMIT]…` installs them while an image is built.
"""

import json
import os
import sys
from pathlib import Path

from tuneline.core.environment import read_variable

VARIABLE = "TUNELINE_KERNELS"
"""Environment variable with the file in which an image names its kernels: repository → commit, as JSON."""
REPO_TYPE = "kernel"
"""What the hub calls such a repository."""
FLASH_ATTENTION = "kernels-community/flash-attn2"
"""The kernel that training loads."""
BRANCH = "v4"
"""The branch of its interface, for torch 2.10 and newer: `FLASH_ATTN_KERNEL_VERSIONS` of transformers 5.23."""


def read_kernel_commits() -> dict[str, str]:
    """Return repository → commit of the kernels in this image; empty where none are installed.

    The variable alone says nothing: a rehearsed container has an image's environment and not its layers.
    """
    file = Path(read_variable(VARIABLE) or os.devnull)
    commits: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return commits


def install_kernels(file: Path, repositories: list[str]) -> None:
    """Install each repository at its commit, and write to `file` which one that was.

    Without `@COMMIT` the commit that `BRANCH` points to now is looked up first, and exactly that one is installed.
    """
    from huggingface_hub import HfApi
    from kernels import install_kernel

    commits = {}
    for name in repositories:
        repository, _, commit = name.partition("@")
        if not commit:
            branches = HfApi().list_repo_refs(repository, repo_type=REPO_TYPE).branches
            commit = next(branch.target_commit for branch in branches if branch.name == BRANCH)
        install_kernel(repository, revision=commit)
        commits[repository] = commit
    file.write_text(json.dumps(commits, indent=1), encoding="utf-8")


if __name__ == "__main__":
    install_kernels(Path(sys.argv[1]), sys.argv[2:])
