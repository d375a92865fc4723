"""What Functions start in their images: their stages, on the micro recipe, and vLLM's own reading of our arguments."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import StageFailed
from tuneline.core.paths import IMPORTED_FROM, ROOT
from tuneline.engines.vllm.vllm_server import serve_arguments
from tuneline.rehearsal.image_builds.root import Root
from tuneline.stages.line import ORDER

RECIPE = "configs/recipes/micro.yaml"
RUN = "image"
HOME = "/root"
STAGES = {
    "cpu": ("fetch", "prepare"),
    "train": ("train",),
    "train.on_cpu": ("train",),
    "convert": ("convert", "evaluate"),
    "compress": ("convert",),
    "evaluate": ("evaluate",),
    "serve": (),
    "gateway": (),
    "page": (),
}
"""The stages that Functions run in each image. `convert` and `evaluate` start llama.cpp's programs, and ask them."""
SETTINGS = {"compress": ("convert.folders=[FP8, ONNX]",)}
"""What the recipe must ask for, so that a stage does what the image is for."""
WITH_VLLM = ("evaluate", "serve")
_ENGINES = ("tuneline.endpoints.engine_api", "tuneline.endpoints.engine_pool")
IMPORTED = {
    "cpu": ("tuneline.endpoints.policy",),
    "train": ("tuneline.stages.preflight",),
    "train.on_cpu": ("tuneline.stages.preflight",),
    "convert": ("tuneline.endpoints.scheduled_evaluation", *_ENGINES),
    "serve": _ENGINES,
    "gateway": ("tuneline.endpoints.gateway.app",),
    "page": ("tuneline.ui.deployed_page",),
}
"""What Functions import beside the stages. `tuneline.volumes` needs Modal's client, which Modal mounts."""

_RUN_STAGES = """
import sys
from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.stages.line import subprocess_runner

recipe = Recipe.model_validate_json(sys.stdin.read())
run = subprocess_runner(recipe, paths.run_folder(sys.argv[1]), lambda event: None)
for stage in sys.argv[2:]:
    run(stage)
"""
PARSE_ARGUMENTS = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

# vllm/entrypoints/cli/serve.py of 0.32
parser = make_arg_parser(FlexibleArgumentParser())
arguments = parser.parse_args(json.loads(sys.stdin.read())[1:])
validate_parsed_serve_args(arguments)
print(arguments.tool_call_parser, arguments.max_lora_rank, arguments.lora_modules)
"""


@dataclass(frozen=True)
class Started:
    """A program that ran to its end."""

    name: str
    seconds: float


def start_programs(image: str, root: Root, folder: Path) -> Iterator[Started]:
    """Yield what an image's Functions start, as each has ended; runs and models are in `folder`.

    Raises:
        StageFailed: one failed; the end of its output is shown.
    """
    if modules := IMPORTED.get(image):
        yield _measure(f"import {', '.join(modules)}", root, ["python", "-c", f"import {', '.join(modules)}"], [])
    if stages := STAGES[image]:
        recipe = load_recipe(ROOT / RECIPE, SETTINGS.get(image, ()))
        _make_earlier_stages(recipe, stages[0], folder)
        for stage in stages:
            command = ["python", "-c", _RUN_STAGES, RUN, stage]
            yield _measure(stage, root, command, _binds(folder), recipe.to_json())
    if image in WITH_VLLM:
        yield _measure("vllm serve --help", root, ["vllm", "serve", "--help"], [])
        arguments = serve_arguments(
            Path("/model"), "base", 8000, 4096, "llama3_json", {"tuned": Path("/a")}, 16, 1, True
        )
        command = ["python", "-c", PARSE_ARGUMENTS]
        yield _measure("our arguments of vllm serve", root, command, [], json.dumps(arguments))


def _measure(
    name: str, root: Root, command: Sequence[str], binds: Sequence[tuple[Path, str]], input: str = ""
) -> Started:
    started = time.monotonic()
    environment = {"PYTHONPATH": HOME, "TUNELINE_RUNS": "/runs", "TUNELINE_MODELS": "/models"}
    # /usr/bin/env looks the command up in the image's PATH.
    root.run(["/usr/bin/env", *command], binds=binds, environment=environment, folder=HOME, input=input)
    return Started(name, time.monotonic() - started)


def _binds(folder: Path) -> list[tuple[Path, str]]:
    """Return what a container has mounted: the Volumes, and where a recipe's files are."""
    return [
        (folder / "runs", "/runs"),
        (folder / "models", "/models"),
        (ROOT / "data/requests", f"{HOME}/tuneline/data/requests"),
    ]


def _make_earlier_stages(recipe: Recipe, stage: str, folder: Path) -> None:
    """Make the run's stages before `stage` with this machine's own packages."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("runs", "models"):
        (folder / name).mkdir(parents=True)
    environment = {
        "TUNELINE_RUNS": str(folder / "runs"),
        "TUNELINE_MODELS": str(folder / "models"),
        "PYTHONPATH": str(IMPORTED_FROM),
    }
    if stages := ORDER[: ORDER.index(stage)]:
        process = subprocess.run(
            [sys.executable, "-c", _RUN_STAGES, RUN, *stages],
            env=os.environ | environment,
            input=recipe.to_json(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if process.returncode:
            raise StageFailed(f"{', '.join(stages)} failed on this machine:\n{process.stdout[-2000:]}")
