"""The bases on this machine: what is listed, verified and removed; which fit a GPU; what doctor finds."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.configs.models import registry
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts, paths
from tuneline.core import nvidia_smi as core_nvidia_smi
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.core.paths import ROOT
from tuneline.endpoints.promotion import names_by_run
from tuneline.stages.doctor import _require_version, examine_machine
from tuneline.stages.fetch import fetch
from tuneline.stages.fetch.local_bases import (
    find_faults,
    find_local_bases,
    list_local_bases,
    list_partial_downloads,
    remove_base,
)
from tuneline.stages.plan.base_fit import BaseFit, detect_machine, fit_bases, parse_machine
from tuneline.stages.plan.base_guide import GUIDE, find_advice


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "POLICY", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    return tmp_path


def fetched(home: Path) -> None:
    data = {"sources": [{"grammar": "data/requests/train.yaml", "rows": 1}]}
    fetch(Recipe.model_validate({"name": "r", "data": data}), home / "runs" / "r")


def test_what_is_here_is_told_verified_and_removed(home: Path) -> None:
    assert list_local_bases() == []
    fetched(home)
    (base,) = list_local_bases()
    assert base.known_as == "tiny" and base.bytes > 5e6 and base.runs == () and find_faults(base) == []
    with pytest.raises(NotFound, match="llama-2-7b"):
        find_local_bases("llama-2-7b")
    weights = base.path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "SHA-256 has changed" in find_faults(base)[0]
    done = CliRunner().invoke(app, ["models", "verify"])
    assert "DAMAGED" in done.output and isinstance(done.exception, StageFailed)
    remove_base(find_local_bases("tiny")[0], 0, names_by_run())
    assert list_local_bases() == []


def test_a_half_download_is_no_model(home: Path) -> None:
    fetched(home)
    folder = list_local_bases()[0].path
    (folder / "manifest.json").unlink()
    assert list_local_bases() == [] and [name for name, size in list_partial_downloads() if size > 5e6] == [folder.name]
    assert "not whole" in CliRunner().invoke(app, ["models", "ls"]).output


def test_a_base_that_runs_or_promotions_need_is_kept_unless_told(home: Path) -> None:
    fetched(home)
    base = artifacts.open_artifact(list_local_bases()[0].path)
    artifacts.make(paths.runs() / "r/train", stage_version=1, settings={}, needs={"fetch": base}, build=lambda _: {})
    with pytest.raises(BadRequest, match="r was made from it"):
        remove_base(list_local_bases()[0], 0, names_by_run())
    version = {"number": 1, "run": "r", "form": "gguf", "file": "f", "context": 1, "convert": "c", "evaluate": "e"}
    (paths.policy() / "models").mkdir(parents=True)
    record = {"name": "router", "versions": [version | {"at": base.manifest.ended.isoformat()}]}
    (paths.policy() / "models/router.json").write_text(json.dumps(record))
    with pytest.raises(BadRequest, match="router is served"):
        remove_base(list_local_bases()[0], 1, names_by_run())
    remove_base(list_local_bases()[0], 2, names_by_run())
    assert list_local_bases() == []


def fits(gpu: str) -> dict[str, BaseFit]:
    return {found.model: found for found in fit_bases(parse_machine(gpu))}


def test_fit_knows_gpus_and_amounts_of_memory() -> None:
    small, large = fits("12GiB"), fits("h100:8")
    assert small["llama-3.1-8b"].train == "4 bit" and small["llama-3.3-70b-instruct"].run is None
    assert large["llama-3.3-70b-instruct"].train == "16 bit, FSDP2" and large["llama-4-scout"].run == "16 bit"
    assert all(large[key].train is None for key in registry().models if not registry().is_trainable(key))
    assert fits("11GiB")["llama-3.1-8b"].train is None and fits("RTX 4090") == fits("4090")
    for wrong in ("FOO", "H100:0", "H100:x", "GiB", "A100"):
        with pytest.raises(BadRequest, match="known are" if wrong != "A100" else "could be A100-40GB, A100-80GB"):
            parse_machine(wrong)


@pytest.mark.parametrize(("constraint", "gpu"), [("one consumer GPU", "RTX-4090"), ("one datacenter GPU", "H100")])
def test_what_the_guide_advises_does_fit(constraint: str, gpu: str) -> None:
    found = fits(gpu)
    for model in find_advice(constraint).bases:
        assert found[model].train, model


def test_the_guide_names_bases_that_are_and_recipes_that_are() -> None:
    for advice in GUIDE:
        assert set(advice.bases) <= set(registry().models)
        for recipe in re.findall(r"Recipes?: ([a-z0-9, -]+)", advice.reason):
            assert all((ROOT / f"configs/recipes/{name}.yaml").exists() for name in recipe.split(", "))
    assert (
        find_advice("cpu").constraint == "CPU only" and find_advice("one-consumer-GPU").constraint == "one consumer GPU"
    )
    for wrong, says in (
        ("a boat", "known are one consumer GPU"),
        ("GPU", "could be one consumer GPU"),
        ("", "known are"),
    ):
        with pytest.raises(BadRequest, match=says):
            find_advice(wrong)


def nvidia_smi(folder: Path, text: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{text}\nE\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("told", "states"),
    [
        ("| Driver Version: 550.54.15    CUDA Version: 12.4 |", {"driver": "ok", "CUDA": "ok"}),
        ("| Driver Version: 515.65.01    CUDA Version: 11.7 |", {"driver": "missing", "CUDA": "missing"}),
        ("Failed to initialize NVML: Driver/library version mismatch", {"GPU": "missing"}),
    ],
)
def test_doctor_judges_the_driver(
    home: Path, monkeypatch: pytest.MonkeyPatch, told: str, states: dict[str, str]
) -> None:
    nvidia_smi(home, told)
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    found = {finding.subject: finding for finding in examine_machine()}
    assert {name: found[name].state for name in states} == states
    assert all(finding.fix for finding in found.values() if finding.state != "ok")


BROKEN_DRIVERS = {
    "fails": "#!/bin/sh\necho NVIDIA-SMI has failed because it could not talk to the driver\nexit 9",
    "says nonsense": "#!/bin/sh\nprintf '[N/A]\\n24576\\n'",
    "says no text": "#!/bin/sh\nprintf '\\377\\376\\000'",
    "says zero": "#!/bin/sh\necho 0",
    "is no program": "\x7fELF nothing",
    "hangs": "#!/bin/sh\nexec sleep 600",
}


@pytest.mark.parametrize("program", BROKEN_DRIVERS.values(), ids=BROKEN_DRIVERS)
def test_a_broken_driver_is_a_message(home: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    (home / "nvidia-smi").write_text(program)
    (home / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    monkeypatch.setattr(core_nvidia_smi, "TIMEOUT_S", 0.5)
    with pytest.raises(StageFailed, match="nvidia-smi .*`tuneline doctor` says what to do; or name a GPU"):
        detect_machine()
    assert [finding.state for finding in examine_machine() if finding.subject == "GPU"] == ["missing"]


@pytest.mark.parametrize("text", ["", "No devices were found"])
def test_a_driver_without_a_gpu_leaves_the_cpu(home: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    nvidia_smi(home, text)
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    assert detect_machine().gpus == 0
    monkeypatch.setenv("PATH", "/nowhere")
    assert detect_machine().gpus == 0


def test_versions_are_compared_as_numbers() -> None:
    assert _require_version("driver", (1000, 0), (525, 0), "x").state == "ok"
