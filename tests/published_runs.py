"""A run with local answers to compare with, and hosts that are peers on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.peers import KEY, say
from tests.runs import MICRO, make_again, make_run
from tuneline.configs import hosts
from tuneline.configs.evaluation import Suite
from tuneline.configs.publish import Publish
from tuneline.configs.recipe import Recipe
from tuneline.stages.evaluate.answers import Answer
from tuneline.stages.evaluate.suites.suite_items import make_items

SUITE = Suite.model_validate(
    {"name": "talk", "items": [{"ask": f"question {n}", "says": ["answer"], "tools": False} for n in range(50)]}
)
TARGETS = ("tuned-F16", "tuned-Q4_K_M", "tuned-Q8_0")


def make_published_run(folder: Path, publish: Mapping[str, Any], modelfile: str = "", **changed: Any) -> Path:
    """A finished run whose local models answer as a peer does; with Modelfiles, if there is a text for them."""
    recipe = make_recipe(publish, **changed)
    answers = [
        Answer(item.id, item.text, {"name": None}, "", [], say(item.text), True, True, True, 1, 0.1)
        for item in make_items(SUITE)
    ]
    run = make_run(folder, recipe, answers={target: {SUITE.name: answers} for target in TARGETS})
    if modelfile:
        for kind in recipe.convert.types:
            (run / f"convert/tuned-{kind}.Modelfile").write_text(modelfile)
        make_again(run, "convert")
        make_again(run, "evaluate")
    return run


def make_recipe(publish: Mapping[str, Any], **changed: Any) -> Recipe:
    evaluate = MICRO.evaluate.model_copy(update={"suites": (SUITE,)})
    return MICRO.model_copy(update={"publish": Publish.model_validate(publish), "evaluate": evaluate} | changed)


def point_to(url: str, target: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
    """Let a target's host be the peer at `url`."""
    file = folder / "hosts.yaml"
    host = hosts.find_host(target)
    chat = {"chat": url + host.chat.removeprefix(host.api)} if host.chat else {}
    file.write_text(yaml.safe_dump({"hosts": {target: {"api": url} | chat | keys}}))
    monkeypatch.setenv(hosts.OVERRIDES, str(file))
    if host.key_variable:
        monkeypatch.setenv(host.key_variable, KEY)
