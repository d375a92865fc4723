"""An image built on this machine: its own commands, run in order in an empty root, with only the files it adds.

Layers are kept by the hash of all that decides them, as Modal keeps them. What this machine cannot reach is replaced,
and the report names it.
"""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from tuneline.core.errors import TunelineError
from tuneline.core.package_locks import CHECKED, LOCKS, read_locked_versions, torch_lock
from tuneline.rehearsal.image_builds import package_sources
from tuneline.rehearsal.image_builds.layers import Layer
from tuneline.rehearsal.image_builds.root import Root, make_base

Show = Callable[[str], None]
"""Shows a line of progress."""
HUB = "https://huggingface.co"
HUB_COMMAND = "tuneline.core.attention_kernels"
REQUIREMENTS = "/.requirements.txt"
_INDEX = re.compile(r"--index-url (\S+) |export TORCH_INDEX=(\S+) && ")
CUDA = "/.cuda.txt"
_PINS = " ".join(f"{name}=={version}" for name, version in read_locked_versions(torch_lock()).items())
_CHECKED = " ".join(CHECKED)
INSTALL_TORCH = (
    f"RUN python -m pip download --quiet --no-deps --only-binary :all: --dest /tmp/torch {_PINS} "
    f"&& python -m pip install --no-index --find-links /tmp/torch -r {REQUIREMENTS} {_CHECKED} && rm -r /tmp/torch "
    "&& if python -m pip check | grep '^torch .*nvidia' > /dev/null; "
    f"then python -m pip install -r {CUDA} {_CHECKED}; fi"
)
"""Installs the build of PyTorch that pip chooses here, and what a build for CUDA needs. It is downloaded first: given
hashes, pip would prefer an index that lists them to a local wheel."""


@dataclass(frozen=True)
class BuiltLayer:
    """A layer on this machine."""

    folder: Path
    command: str
    """Its last command."""
    seconds: float
    """0 where it was kept from an earlier build."""

    @property
    def bytes(self) -> int:
        return sum(file.lstat().st_size for file in self.folder.rglob("*") if file.is_file() and not file.is_symlink())


@dataclass
class Build:
    """A finished or unfinished build."""

    folder: Path
    show: Show
    layers: list[BuiltLayer] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    """What this machine could not do as the image says."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Root:
        return Root(tuple(layer.folder for layer in reversed(self.layers)), dict(self.environment))

    def add(self, layer: Layer) -> None:
        """Build a layer on top of the others, unless it was built before."""
        if layer.source:
            self._add_base(layer.source)
        self.environment |= layer.environment
        if not layer.files and not any(layer.words("RUN")):
            return
        label = next(reversed([*layer.words("RUN")]), "COPY")
        layer = self._replace_unreachable(layer)
        self._keep(layer.key(self.layers[-1].folder.name), label, lambda folder: self._run(layer, folder))

    def _add_base(self, image: str) -> None:
        self._keep(Layer((f"FROM {image}",)).key(""), f"FROM {image}", lambda folder: make_base(image, folder))

    def _keep(self, key: str, command: str, make: Callable[[Path], None]) -> None:
        """Add the layer `key`; `make` fills its folder if it is not there."""
        folder, started = self.folder / key, time.monotonic()
        if not folder.exists():
            self.show(f"building: {command}")
            partial = folder.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                make(partial)
            except TunelineError:
                shutil.rmtree(partial)
                raise
            partial.rename(folder)
            self.layers.append(BuiltLayer(folder, command, time.monotonic() - started))
        else:
            self.layers.append(BuiltLayer(folder, command, 0))

    def _run(self, layer: Layer, folder: Path) -> None:
        for path, content in layer.files.items():
            file = folder / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for command in layer.words("RUN"):
            self.root.run(["/bin/sh", "-c", command], upper=folder, network=True)

    def _replace_unreachable(self, layer: Layer) -> Layer:
        """Return the layer as this machine can build it."""
        commands = [self._replace_command(command) for command in layer.commands]
        files = {CUDA: (LOCKS / "cuda.txt").read_bytes()} if INSTALL_TORCH in commands else {}
        return replace(layer, commands=tuple(filter(None, commands)), files={**layer.files, **files})

    def _replace_command(self, command: str) -> str:
        if HUB_COMMAND in command and not package_sources.can_reach(HUB):
            self.replaced.append("FlashAttention's kernel: no hub here")
            return ""
        match = _INDEX.search(command)
        if not match or package_sources.can_reach(match[1] or match[2]):
            return command
        self.replaced.append(f"{urlsplit(match[1] or match[2]).netloc}: PyTorch comes from where pip looks here")
        without = command.replace(match[0], "")
        return without if match[2] else INSTALL_TORCH


def build_image(layers: Sequence[Layer], source: dict[str, bytes], folder: Path, show: Show) -> Build:
    """Return the image built in `folder`, with our source as its last layer, as a container has it mounted.

    Raises:
        StageFailed: a command failed; the end of its output is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    build = Build(folder, show)
    for layer in layers:
        build.add(layer)
    build.add(Layer(("COPY . /",), source))
    return build
