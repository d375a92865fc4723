"""A command in an image's root: its layers as one file system, in namespaces of its own.

Run as a script, by path, with `-I -S` and nothing but the standard library: `chroot_process.py SPEC`. SPEC is a JSON
file (`ChrootSpec` of tuneline.rehearsal.image_builds.root).
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path.append(str(Path(__file__).resolve().parents[1]))
sandbox: Any = importlib.import_module("tuneline.rehearsal.sandbox" if __package__ else "sandbox")


def main(spec: dict[str, Any]) -> int:
    sandbox.libc.prctl(sandbox.DIE_WITH_PARENT, 9)
    sandbox.unshare(network=spec["network"])
    if not spec["network"]:
        sandbox.open_network([])
    return int(sandbox.run_in_child(lambda: enter(spec)))


def enter(spec: dict[str, Any]) -> int:
    """Mount the layers, /proc, /dev and what is bound, and become the command."""
    root = Path(spec["root"])
    mount_layers(root, spec["lower"], spec["upper"], spec["work"])
    for name in ("proc", "dev"):
        (root / name).mkdir(exist_ok=True)
    sandbox.mount("proc", root / "proc", "proc")
    sandbox.bind(Path("/dev"), root / "dev")
    for source, target, read_only in spec["binds"]:
        bind(Path(source), root / target.lstrip("/"), read_only=read_only)
    os.chroot(root)
    os.chdir(spec["folder"])
    os.execve(spec["command"][0], spec["command"], spec["environment"])


def mount_layers(root: Path, lower: list[str], upper: str, work: str) -> None:
    """Mount an overlay of the folders `lower`, the newest first; what is written goes to `upper`."""
    options = f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work}".encode()
    if sandbox.libc.mount(b"overlay", str(root).encode(), b"overlay", 0, options):
        sandbox._check(-1, f"mount of {len(lower)} layers at {root}")


def bind(source: Path, target: Path, *, read_only: bool) -> None:
    """Make a file or folder of this machine visible at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir(exist_ok=True)
    elif not target.exists():
        target.unlink(missing_ok=True)  # a link that leads nowhere
        target.touch()
    sandbox.bind(source, target)
    if read_only:
        sandbox.protect(target)


if __name__ == "__main__":
    chroot_spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os._exit(sandbox._exit_code(lambda: main(chroot_spec)))
