"""What is said of where a figure was measured, on machines that this one is not."""

import os
import stat
from pathlib import Path

import pytest

from tests.unit.test_artifact import made
from tuneline.core import artifacts, machine
from tuneline.core.machine import Machine, describe_machine

EPYC = "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
LISTED = "".join(f"GPU {i}: NVIDIA H200 (UUID: GPU-{i})\n" for i in range(2))


@pytest.fixture(autouse=True)
def fresh() -> None:
    machine._read_processor.cache_clear()
    machine._list_gpus.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (EPYC, "AMD EPYC 9R14 (AVX512-BF16)"),
        (EPYC.replace("avx512_bf16", ""), "AMD EPYC 9R14 (AVX-512)"),
        (EPYC.replace("avx", "sse"), "AMD EPYC 9R14"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", f"{os.uname().machine} (NEON)"),
    ],
)
def test_the_processor_and_what_its_kernels_are_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, expected: str
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    assert describe_machine().processor == expected


@pytest.mark.parametrize(
    ("script", "gpus"),
    [
        (f"printf '{LISTED}'", ("NVIDIA H200",) * 2),
        ("echo 'Failed to initialize NVML'; exit 9", ()),
        ("exec false", ()),
    ],
)
def test_gpus_as_the_driver_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, gpus: tuple[str, ...]
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert describe_machine().gpus == gpus
    assert str(Machine(processor="P", cores=1, gpus=gpus)) == "P, 1 core" + (", 2 × NVIDIA H200" if gpus else "")


def test_a_driver_that_hangs_does_not_stop_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "nvidia-smi").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "SMI_TIMEOUT_S", 0.1)
    assert describe_machine().gpus == ()


def test_every_machine_that_worked_on_an_artifact_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "first", "second"):
        monkeypatch.setattr(artifacts, "describe_machine", lambda name=name: Machine(processor=name, cores=2))
        with pytest.raises(OSError, match="preempted"):
            made(tmp_path / "train", build=preempted)
    manifest = made(tmp_path / "train").manifest
    assert [str(where) for where in manifest.machines] == ["first, 2 cores", "second, 2 cores"]
    assert manifest.origin == f"{manifest.ended:%Y-%m-%d} on first, 2 cores; then second, 2 cores"
    older = manifest.model_copy(update={"machines": ()})
    assert older.origin.endswith("on a machine that was not recorded")


def preempted(folder: Path) -> dict[str, int]:
    raise OSError("preempted")
