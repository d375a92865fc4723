"""Perplexity of the files on the rows training validated on: the 16-bit file's loss is the one training measured."""

import math
from pathlib import Path

import pytest

from tuneline.configs.recipe import recipe_of
from tuneline.core import artifacts
from tuneline.stages.evaluate.scoring.perplexity import measure_losses, perplexity_rows
from tuneline.stages.prepare.prepared_run import load_tools, read_prepared
from tuneline.stages.prepare.rendering.renderer import Renderer


def test_learned_tokens_give_trainings_validation_loss_and_a_second_call_measures_nothing(
    home: Path, tmp_path: Path
) -> None:
    run = home / "runs" / "whole"
    recipe = recipe_of(run)
    base = next((home / "models").glob("tiny@*"))
    rows = read_prepared(run / "prepare/validation.jsonl")
    rendered = list(Renderer(base, load_tools(run / "prepare")).batch(rows))
    files = {"base": run / "convert/base-F16.gguf", "tuned-F16": run / "convert/tuned-F16.gguf"}
    measured: list[int] = []
    losses = measure_losses(
        files, rendered, tmp_path, recipe.data.max_tokens, 1, lambda target, row: measured.append(row)
    )
    found = {(row["target"], row["tokens_counted"]): row for row in perplexity_rows(losses, 0.95)}
    validated = artifacts.open_artifact(run / "train").metrics["validation_loss"]
    assert found["tuned-F16", "learned"]["nats_per_token"] == pytest.approx(validated, abs=0.02)
    assert found["tuned-F16", "learned"]["perplexity"] < found["base", "learned"]["perplexity"]
    row = found["tuned-F16", "all"]
    assert row["perplexity"] == pytest.approx(math.exp(row["nats_per_token"]), rel=1e-3)
    assert row["perplexity_low"] < row["perplexity"] < row["perplexity_high"] and row["rows"] == len(rows)
    (tmp_path / "perplexity/base.jsonl").open("a").write('{"row": 99, "na')
    again = measure_losses(
        files, rendered, tmp_path, recipe.data.max_tokens, 1, lambda target, row: measured.append(row)
    )
    assert again == losses and len(measured) == 2 * len(rows)
