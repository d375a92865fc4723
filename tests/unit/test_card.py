"""The model card: figures with their n and interval, and what the base's licence asks for."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.unit.test_report import make_all
from tuneline.cli import app
from tuneline.configs.models import registry
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.stages.report.model_card import prefix_name, write_card


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    make_all(tmp_path / "router", "tuned-Q4_K_M")
    (tmp_path / "router/recipe.json").write_text(load_recipe(ROOT / "configs/recipes/demo.yaml").model_dump_json())
    return tmp_path / "router"


def of(run: Path, base: str) -> tuple[dict[str, object], str]:
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml").model_copy(update={"base": base, "revision": "abc"})
    (run / "recipe.json").write_text(recipe.model_dump_json())
    _, head, body = write_card(run)[0].read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_llama_bears_its_name_and_says_what_it_was_built_with(run: Path) -> None:
    head, body = of(run, "meta-llama/Llama-3.1-8B-Instruct")
    assert (head["license"], head["base_model"]) == ("llama3.1", "meta-llama/Llama-3.1-8B-Instruct")
    assert head["base_model_relation"] == "quantized" and "llama" in head["tags"]  # type: ignore[operator]
    assert "# Llama-router\n" in body and "**Built with Llama**" in body and "700 million" in body
    notice = (run / "convert/NOTICE").read_text()
    assert notice.startswith("Llama 3.1 is licensed under the Llama 3.1 Community License") and notice.strip() in body


def test_figures_have_n_and_interval_and_limits_are_told(run: Path) -> None:
    head, body = of(run, "tiny")
    (result,) = head["model-index"][0]["results"]  # type: ignore[index]
    assert result["metrics"][0]["value"] == 0.95 and result["dataset"]["name"] == "unseen (n = 40)"
    assert "| unseen | tuned Q4_K_M | 95.0\u202f% | " in body and "| 40 | " in body
    assert "- Not shown: unseen: tuned-Q4_K_M is right in 95.0% of 40; lower bound" in body
    assert "`tuned-Q4_K_M.gguf` | 1.5\u202fkB | 4.200 | 0.0210 | 93.0\u202f%" in body and "base-F16" not in body
    assert "Built with" not in body and not (run / "convert/NOTICE").exists()


def test_names_begin_as_the_licence_wants() -> None:
    licences = registry().licences
    assert prefix_name("zantara", licences["llama4"]) == "Llama-zantara"
    assert prefix_name("Llama-zantara", licences["llama3.3"]) == "Llama-zantara"
    assert prefix_name("zantara", licences["llama2"]) == "zantara" and prefix_name("zantara", None) == "zantara"


def test_every_licence_of_a_base_we_train_is_known() -> None:
    there = registry()
    missing = {m.licence for key, m in there.models.items() if there.is_trainable(key)} - set(there.licences)
    assert missing <= {"Tuneline's own", "deepseek"}


def test_the_command_tells_what_it_wrote(run: Path) -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["card", "router"])
    assert done.exit_code == 0 and done.output.split() == [str(run / "convert/README.md")]
