"""`tuneline rehearse --build IMAGE`: an image built by its own commands, and started."""

import os
import subprocess
import sys
from pathlib import Path

from tuneline.core.child_processes import last_lines
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.formatting import format_bytes
from tuneline.rehearsal.apps import IMAGE_BUILDERS
from tuneline.rehearsal.image_builds.build import Build, Show, build_image
from tuneline.rehearsal.image_builds.layers import Layer, list_layers, read_mounted_files
from tuneline.rehearsal.image_builds.programs import STAGES, start_programs
from tuneline.rehearsal.image_builds.root import check_machine
from tuneline.rehearsal.session import Rehearsal

PYTHON = "3.12"
LAST_LINES = 12


def build_and_start(images: list[str], folder: Path, show: Show, *, builder: str = IMAGE_BUILDERS[0]) -> None:
    """Build each image in `folder` from the commands that the real client sends, and start what its Functions start.

    Args:
        builder: version of Modal's base images.

    Raises:
        BadRequest: no such image or builder, or not root. NotFound: mmdebstrap or that Python is not here.
        StageFailed: a command or a program failed; the end of its output is shown.
    """
    if unknown := [name for name in images if name not in STAGES]:
        raise BadRequest(f"{unknown[0]}: no such image; there are {', '.join(STAGES)}")
    if builder not in IMAGE_BUILDERS:
        raise BadRequest(f"{builder}: no such image builder; there are {', '.join(IMAGE_BUILDERS)}")
    check_machine(PYTHON)
    for name, (layers, source) in read_images(images, folder / "messages", builder).items():
        build = build_image(layers, source, folder / "layers", show)
        _report_build(name, build, show)
        for started in start_programs(name, build.root, folder / "started"):
            show(f"{name}: {started.name}: {started.seconds:.0f} s")


def read_images(names: list[str], folder: Path, builder: str) -> dict[str, tuple[list[Layer], dict[str, bytes]]]:
    """Return the layers of images, and the files that their containers have mounted, as the client sends them."""
    with Rehearsal(folder) as rehearsal:
        rehearsal.plane.image_builder = builder
        command = [sys.executable, "-m", "tuneline.images", *names]
        environment = os.environ | rehearsal.environment
        client = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if client.returncode:
            raise StageFailed(f"the client sent no image:\n{last_lines(client.stderr, LAST_LINES)}")
        state = rehearsal.plane.state
        specs = {function.spec.function_name: function.spec for function in state.functions.values()}
        return {
            name: (list_layers(state, specs[name].image_id), read_mounted_files(state, specs[name].mount_ids))
            for name in names
        }


def _report_build(name: str, build: Build, show: Show) -> None:
    for layer in build.layers:
        took = f"{layer.seconds:.0f} s" if layer.seconds else "kept"
        show(f"{name}: {format_bytes(layer.bytes):>8} {took:>6}  {layer.command[:100]}")
    show(f"{name}: {format_bytes(sum(layer.bytes for layer in build.layers))} in {len(build.layers)} layers")
    for replacement in dict.fromkeys(build.replaced):
        show(f"{name}: not as on Modal: {replacement}")
