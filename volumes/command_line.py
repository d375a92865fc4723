"""What `modal run app.py::VERB --recipe FILE` asks for, read from its words when app.py is imported.

Modal's client creates every Function of an app, and builds its image, before an entrypoint begins (modal/runner.py,
`_create_all_objects`). So which Functions a command needs, and whether its recipe can run, has to be known first.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import modal

from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.configs.sweep import expand_sweep
from tuneline.core.environment import check_environment
from tuneline.core.errors import TunelineError
from tuneline.core.terminal import echo
from tuneline.stages.line import ORDER, SIDE_STAGES
from tuneline.volumes.entrypoints import DEMO, refuse_known_failures, split_settings
from tuneline.volumes.pipeline_run import stages_of_verb
from tuneline.volumes.stage_calls import StageFunction, choose_function

SWEEP = "sweep"
VERBS = {verb: verb for verb in (*ORDER, *SIDE_STAGES)} | {"pipeline": "evaluate", SWEEP: "evaluate"}
"""Entrypoint of app.py → the last stage that it runs."""
_ENTRYPOINT = re.compile(rf"(?:.*\W)?app(?:\.py)?::({'|'.join(VERBS)})")


@dataclass(frozen=True)
class NeededFunctions:
    """Which Functions of app.py the running command calls; `stages` is None for all, as in `modal deploy`."""

    stages: frozenset[StageFunction] | None = None

    @property
    def all(self) -> bool:
        """Whether Functions that no pipeline run calls are needed, too: endpoint, policy and schedule."""
        return self.stages is None

    def includes(self, stage: str, *, on_gpu: bool) -> bool:
        """Return whether a stage's Function on that hardware is needed; preflight runs on training's."""
        names = {stage} | ({"preflight"} if stage == "train" else set())
        return self.stages is None or any((name, on_gpu) in self.stages for name in names)


def read_needed_functions(words: Sequence[str]) -> NeededFunctions:
    """Return what the command of these words needs; all in a container, and for other commands.

    Ends the process with the error's exit code if the recipe cannot be run: nothing is built or uploaded for it.
    """
    parsed = _parse(words) if modal.is_local() else None
    if parsed is None:
        return NeededFunctions()
    try:
        check_environment()
        recipes = _load_recipes(parsed)
        for recipe in recipes:
            refuse_known_failures(recipe)
        stages = stages_of_verb(parsed.until or VERBS[parsed.verb], parsed.only)
    except TunelineError as error:
        echo(f"error: {error}", error=True)
        sys.exit(error.exit_code)
    return NeededFunctions(frozenset(choose_function(stage, recipe) for recipe in recipes for stage in stages))


def _load_recipes(parsed: argparse.Namespace) -> list[Recipe]:
    """Return the recipe of a verb, or those of a sweep."""
    file, settings = Path(parsed.recipe), split_settings(parsed.set)
    if parsed.verb == SWEEP:
        return [run.recipe for run in expand_sweep(file, settings, parsed.run or None)]
    return [load_recipe(file, settings)]


def _parse(words: Sequence[str]) -> argparse.Namespace | None:
    """Return the verb and the options of `modal run app.py::VERB …`; None for other commands, and for `--help`."""
    names = [match[1] for match in map(_ENTRYPOINT.fullmatch, words) if match]
    if "run" not in words or not names or "--help" in words:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", default=DEMO)
    for option in ("--set", "--run", "--until"):
        parser.add_argument(option, default="")
    parser.add_argument("--only", action=argparse.BooleanOptionalAction, default=False)
    try:
        parsed, _ = parser.parse_known_args(list(words))
    except argparse.ArgumentError:
        return None  # the client says what is wrong
    parsed.verb = names[0]
    return parsed
