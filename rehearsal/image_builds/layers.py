"""The layers of an image, from the client's messages: their Dockerfile commands, and the files that they add."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tuneline.rehearsal.state import State

KEY_LENGTH = 20


@dataclass(frozen=True)
class Layer:
    """What one message adds to its base image."""

    commands: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Content by absolute path."""

    @property
    def source(self) -> str | None:
        """The image of a registry that it begins with, such as `python:3.12-slim-trixie`; None of a later layer."""
        return next((image for image in self.words("FROM") if image != "base"), None)

    def words(self, instruction: str) -> Iterator[str]:
        """Yield what follows `instruction` in its commands (docs.docker.com/reference/dockerfile)."""
        for command in self.commands:
            name, _, rest = command.partition(" ")
            if name.upper() == instruction:
                yield rest.strip()

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its ENV commands, in the form `NAME=VALUE` that Modal's client writes."""
        variables = (re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words) for words in self.words("ENV"))
        return {match[1]: match[2].strip("\"'") for match in variables if match}

    def key(self, parent: str) -> str:
        """Return a hash of all that decides its content."""
        digest = hashlib.sha256(parent.encode())
        for command in self.commands:
            digest.update(command.encode() + b"\0")
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()[:KEY_LENGTH]


def list_layers(state: State, image_id: str) -> list[Layer]:
    """Return an image's layers, the first one first; those that only add files are joined with the next one."""
    layers = list(_walk(state, image_id))
    joined: list[Layer] = []
    for layer in layers:
        if joined and not any(joined[-1].words("RUN")) and not joined[-1].source:
            before = joined.pop()
            layer = replace(layer, commands=(*before.commands, *layer.commands), files={**before.files, **layer.files})
        joined.append(layer)
    return joined


def read_mounted_files(state: State, mount_ids: Iterator[str]) -> dict[str, bytes]:
    """Return the content of all files in mounts, by absolute path."""
    return {
        file.filename: (state.folder / "files" / file.sha256_hex).read_bytes()
        for mount_id in mount_ids
        for file in state.mounts.get(mount_id, [])
    }


def _walk(state: State, image_id: str) -> Iterator[Layer]:
    image = state.images[image_id]
    for base in image.base_images:
        yield from _walk(state, base.image_id)
    files = {str(Path("/") / file.filename): file.data for file in image.context_files}
    files |= read_mounted_files(state, iter([image.context_mount_id] if image.context_mount_id else []))
    yield Layer(tuple(image.dockerfile_commands), files)
