"""Real GGUF files of the tiny base and a random adapter: exact merge, K types, template, interruption, full disk."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CACHE
from tests.random_adapter import TINY, save_random_adapter
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRecipe, StageFailed, from_record
from tuneline.core.events import read_events
from tuneline.core.paths import ROOT
from tuneline.stages import convert as package
from tuneline.stages.checkpoints.safetensors_files import list_tensors
from tuneline.stages.convert import convert, worker
from tuneline.stages.convert.onepass import one_pass
from tuneline.stages.convert.onepass.converter import find_pre_tokenizer
from tuneline.stages.convert.onepass.merged_checkpoint import merge_adapter
from tuneline.stages.convert.onepass.output_files import OutputFile
from tuneline.stages.convert.task import Task
from tuneline.stages.convert.verification.verify import verify

TEMPLATE = "{{- bos_token }}learned{% for message in messages %}{{ message.content }}{% endfor %}"
OLD = b"an old template"
RECIPE = Recipe.model_validate(
    {
        "name": "t",
        "data": {"sources": [{"path": "x.jsonl"}]},
        "convert": {"types": ["F16", "Q8_0", "Q4_K_M"]},
    }
)


CONVERT = """
import sys
from pathlib import Path
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.stages import convert
base = artifacts.open_artifact(Path(sys.argv[1]))
convert.open_base = lambda recipe: base
convert.convert(Recipe.model_validate_json(sys.argv[3]), Path(sys.argv[2]))
"""
"""`convert` in a process of its own: the base's folder, the run's, and the recipe."""


@dataclass(frozen=True)
class Inputs:
    base: Artifact
    run: Path

    @property
    def adapter(self) -> Path:
        return self.run / "train" / "adapter"


def made(path: Path, files: Mapping[str, Path | str], **needs: Artifact) -> Artifact:
    def build(folder: Path) -> dict[str, Any]:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, folder / name)
            else:
                (folder / name).write_text(content)
        return {}

    return artifacts.make(path, stage_version=1, settings={}, needs=needs, build=build)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_adapter(tmp_path_factory.mktemp("adapter"))


def prepared(home: Path, adapter: Path, rows: str = "") -> Inputs:
    """All that convert needs; the base carries an older template in its tokenizer_config.json, as many do."""
    config = json.loads((TINY / "tokenizer_config.json").read_text()) | {"chat_template": OLD.decode()}
    files = {file.name: file for file in TINY.iterdir() if file.suffix in (".json", ".jinja", ".safetensors")}
    base = made(home / "models" / "tiny@0", files | {"tokenizer_config.json": json.dumps(config)})
    run = home / "runs" / "t"
    prepared = made(run / "prepare", {"train.jsonl": rows, "chat_template.jinja": TEMPLATE}, fetch=base)
    made(run / "train", {f"adapter/{file.name}": file for file in adapter.iterdir()}, fetch=base, prepare=prepared)
    return Inputs(base, run)


@pytest.fixture
def inputs(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    inputs = prepared(tmp_path, adapter)
    monkeypatch.setattr(package, "open_base", lambda recipe: inputs.base)
    return inputs


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Artifact:
    inputs = prepared(tmp_path_factory.mktemp("converted"), adapter)
    os.environ.setdefault("TUNELINE_CACHE", CACHE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "open_base", lambda recipe: inputs.base)
        made = convert(RECIPE, inputs.run)
        assert convert(RECIPE, inputs.run) == made
    return made


def test_every_file_is_made_and_measured(converted: Artifact) -> None:
    files, folder = converted.metrics["files"], converted.path
    assert list(files) == ["base-F16", "tuned-F16", "tuned-Q8_0", "tuned-Q4_K_M"]
    modelfiles = {f"{name}.Modelfile" for name in files if name != "base-F16"}
    others = {"verify.json", "SHA256SUMS"} | modelfiles
    assert {f"{name}.gguf" for name in files} | others == set(converted.manifest.files)
    assert all(about["bytes"] == (folder / f"{name}.gguf").stat().st_size for name, about in files.items())
    assert files["tuned-Q4_K_M"]["k_quant_share"] > 0.99 and {"Q4_K", "Q6_K"} <= files["tuned-Q4_K_M"]["types"].keys()
    assert files["tuned-Q8_0"]["k_quant_share"] == files["tuned-F16"]["k_quant_share"] == 0
    assert len({sum(about["types"].values()) for about in files.values()}) == 1
    assert (folder / "base-F16.gguf").read_bytes() != (folder / "tuned-F16.gguf").read_bytes()
    assert not (folder / artifacts.SCRATCH).exists()
    told = [(e["done"], e["total"]) for e in read_events(folder.parent) if e.get("unit") == "bytes"]
    assert told[0][0] == 0 and told[-1][0] == told[-1][1] == sum(
        t.bytes for t in list_tensors(TINY / "model.safetensors")
    )


def test_the_sums_are_checked_by_sha256sum(converted: Artifact) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=converted.path, capture_output=True)
    assert done.returncode == 0 and done.stdout.count(b": OK") == 2 * len(converted.metrics["files"]) - 1


def test_every_file_is_verified(converted: Artifact) -> None:
    report = json.loads((converted.path / "verify.json").read_text())
    kinds = {(check["check"], check["file"]) for check in report["checks"] if check["passed"]}
    assert len(kinds) == len(report["checks"]) and report["skipped"] == []
    tuned = [name for name in converted.metrics["files"] if name != "base-F16"]
    assert {file for kind, file in kinds if kind == "ollama"} == {f"{name}.Modelfile" for name in tuned}
    for check in ("token_ids", "template", "stop_tokens", "fidelity"):
        assert {file for kind, file in kinds if kind == check} == {f"{name}.gguf" for name in tuned}
    assert ("greedy", "tuned-F16.gguf") in kinds and "rendered_template" in {kind for kind, _ in kinds}
    fidelity = converted.metrics["fidelity"]
    assert fidelity == report["fidelity"] and list(fidelity) == tuned
    of = {name: (about["kl_mean_nats"], about["top_1_agreement"]) for name, about in fidelity.items()}
    assert of["tuned-F16"] == (0, 1) and 0 < of["tuned-Q8_0"][0] < of["tuned-Q4_K_M"][0] < 1
    assert all(about["tokens"] > 100 and about["perplexity"] > 1 for about in fidelity.values())


def test_the_base_keeps_its_template_and_the_tuned_has_the_one_it_learned(converted: Artifact) -> None:
    own = (TINY / "chat_template.jinja").read_bytes()
    for name in converted.metrics["files"]:
        content = (converted.path / f"{name}.gguf").read_bytes()
        assert (own in content) == (name == "base-F16")
        assert (TEMPLATE.encode() in content) == (name != "base-F16")
        assert OLD not in content  # transformers, too, lets the template in a file of its own win


def test_a_killed_convert_goes_on_and_trusts_no_half_file(converted: Artifact, inputs: Inputs) -> None:
    """SIGKILL as it begins, writes, moves what is whole, and checks it; the files are the same in the end."""
    folder, log, chance = inputs.run / "convert", inputs.run / "log", random.Random(0)
    command = [sys.executable, "-c", CONVERT, str(inputs.base.path), str(inputs.run), RECIPE.model_dump_json()]
    for reached in ("scratch", "scratch/journal", f"scratch/{one_pass.FINISHED}", "tuned-Q4_K_M.gguf"):
        with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as process:
            while process.poll() is None and not (folder / reached).exists():
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.5))
            process.kill()
        assert process.returncode == -signal.SIGKILL, log.read_text()
        assert not artifacts.is_finished(folder)
    made = convert(RECIPE, inputs.run)
    assert made.manifest.files == converted.manifest.files and made.metrics == converted.metrics


def test_a_scratch_of_its_own_takes_what_is_unfinished_and_may_be_lost(
    converted: Artifact, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Modal: the artifact is on a network's disk, which sees finished files only, and a container's disk goes."""
    folder, log, chance = inputs.run / "convert", inputs.run / "log", random.Random(1)
    command = [sys.executable, "-c", CONVERT, str(inputs.base.path), str(inputs.run), RECIPE.model_dump_json()]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as disk:
        local = Path(disk) / "scratch"
        monkeypatch.setenv("TUNELINE_SCRATCH", str(local))
        for root, reached in ((local, "*/journal"), (folder, "tuned-Q4_K_M.gguf")):
            with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as process:
                while process.poll() is None and not [*root.glob(reached)]:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.3))
                process.kill()
            assert process.returncode == -signal.SIGKILL, log.read_text()
            small = {"place", "worker.log", one_pass.FINISHED, "arriving"}
            assert {file.name for file in (folder / artifacts.SCRATCH).rglob("*")} <= small
            shutil.rmtree(local)
        made = convert(RECIPE, inputs.run)
        assert not [*local.iterdir()]
    assert made.manifest.files == converted.manifest.files and made.metrics == converted.metrics


def test_too_small_a_disk_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [OutputFile(tmp_path / "tuned-F16.gguf", 10**15, b"")]
    with pytest.raises(StageFailed, match=r"1000000\.0 GB are needed for 1 files and .* are free; free some space"):
        one_pass.refuse_if_full(tmp_path, targets)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(task: Task, tell: Any) -> None:
        with Path("/dev/full").open("w", encoding="utf-8") as file:
            file.write("x")

    monkeypatch.setattr(worker, "run", full)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"base": "b", "scratch": str(tmp_path)})))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as outcome:
        monkeypatch.setattr(sys, "argv", ["worker", str(outcome.fileno())])
        assert worker.main() == 1
        outcome.seek(0)
        told = from_record(json.load(outcome)["error"])
    assert isinstance(told, StageFailed) and f"{tmp_path}: the disk is full" in str(told)


def test_a_token_that_does_not_stop_fails_the_stage_by_name(inputs: Inputs) -> None:
    other = json.loads((inputs.base.path / "generation_config.json").read_text()) | {"eos_token_id": [2044, 63, 64, 65]}
    (inputs.base.path / "generation_config.json").write_text(json.dumps(other))
    with pytest.raises(StageFailed, match=r"tuned-F16\.gguf: stop_tokens: does not stop at "):
        convert(RECIPE, inputs.run)
    assert not artifacts.is_finished(inputs.run / "convert")


def test_files_that_are_not_the_tuned_model_fail_by_name(converted: Artifact, adapter: Path, tmp_path: Path) -> None:
    """The base in place of the tuned model; and one quantization with a damaged matrix."""
    folder, run = tmp_path / "convert", converted.path.parent
    shutil.copytree(converted.path, folder)
    shutil.copyfile(folder / "base-F16.gguf", folder / "tuned-F16.gguf")
    with (folder / "tuned-Q8_0.gguf").open("r+b") as file:
        file.seek(-1_000_000, os.SEEK_END)
        file.write(random.Random(0).randbytes(900_000))
    outputs = [{"path": str(folder / f"tuned-{kind}.gguf"), "kind": kind, "name": "t"} for kind in ("F16", "Q8_0")]
    wanted = {"prepared": str(run / "prepare"), "report": str(folder / "verify.json"), "tokens": 256, "floor": 0.5}
    template = str(run / "prepare/chat_template.jinja")
    paths = {"base": str(TINY), "scratch": str(tmp_path), "adapter": str(adapter), "template": template}
    with pytest.raises(StageFailed, match=r"tuned-F16\.gguf: template: not the text the model was trained with"):
        verify(Task(**paths, outputs=outputs, verify=wanted), lambda **told: None)
    report = json.loads((folder / "verify.json").read_text())
    failed = {(check["check"], check["file"]) for check in report["checks"] if not check["passed"]}
    assert {("greedy", "tuned-F16.gguf"), ("fidelity", "tuned-Q8_0.gguf")} <= failed
    assert not {("token_ids", "tuned-F16.gguf"), ("fidelity", "tuned-F16.gguf")} & failed


def test_other_answers_than_the_adapter_s_are_a_warning(converted: Artifact, adapter: Path, tmp_path: Path) -> None:
    """Compared with an adapter of several times the effect of the one that was merged."""
    folder, run, other = tmp_path / "convert", converted.path.parent, tmp_path / "adapter"
    shutil.copytree(converted.path, folder)
    shutil.copytree(adapter, other)
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 8 * settings["lora_alpha"]}))
    outputs = [{"path": str(folder / "tuned-F16.gguf"), "kind": "F16", "name": "t"}]
    wanted = {"prepared": str(run / "prepare"), "report": str(folder / "verify.json"), "tokens": 256, "floor": 0.5}
    template = str(run / "prepare/chat_template.jinja")
    paths = {"base": str(TINY), "scratch": str(tmp_path), "adapter": str(other), "template": template}
    verified = verify(Task(**paths, outputs=outputs, verify=wanted), lambda **told: None)
    assert [line.partition(": ")[0] for line in verified["differences"]] == ["tuned-F16.gguf"]
    assert "answers differ from the adapter's" in verified["differences"][0]
    assert (folder / "SHA256SUMS").exists()


def test_a_merged_checkpoint_lies_beside_with_the_learned_template(inputs: Inputs, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    convert_ = RECIPE.convert.model_copy(update={"types": ("F16",), "format": "safetensors"})
    made = convert(RECIPE.model_copy(update={"convert": convert_}), inputs.run)
    merge_adapter(inputs.base.path, inputs.adapter, tmp_path / "alone", lambda done, total: None)
    weights = (tmp_path / "alone/model.safetensors").read_bytes()
    assert (made.path / "merged/model.safetensors").read_bytes() == weights
    assert AutoTokenizer.from_pretrained(made.path / "merged").chat_template == TEMPLATE
    assert {
        "merged/config.json",
        "merged/tokenizer.json",
        "merged/generation_config.json",
    } <= made.manifest.files.keys()
    assert "merged/manifest.json" not in made.manifest.files


def test_an_importance_matrix_needs_text(inputs: Inputs) -> None:
    convert_ = RECIPE.convert.model_copy(update={"imatrix_tokens": 100})
    with pytest.raises(StageFailed, match=r"convert\.imatrix_tokens: the run has no conversations"):
        convert(RECIPE.model_copy(update={"convert": convert_}), inputs.run)


def test_a_worker_dies_with_its_stage(inputs: Inputs) -> None:
    command = [sys.executable, "-c", CONVERT, str(inputs.base.path), str(inputs.run), RECIPE.model_dump_json()]
    log = inputs.run / "convert/scratch/worker.log"
    with subprocess.Popen(command, cwd=ROOT) as process:
        while not log.exists() and process.poll() is None:
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (workers := children.read_text(encoding="utf-8").split()) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(1)
        process.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{workers[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{workers[0]}").exists()


def test_a_split_rule_without_a_name_is_refused(tmp_path: Path) -> None:
    tokenizer = json.loads((TINY / "tokenizer.json").read_text())
    assert find_pre_tokenizer(TINY / "tokenizer.json") == "llama-bpe"
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W"
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadRecipe, match="llama.cpp does not know its pre-tokenizer"):
        find_pre_tokenizer(tmp_path / "tokenizer.json")
