"""How app.py fails: a message with what, where and the next command, the right exit code, and no traceback of ours."""

import shutil
from pathlib import Path

from tests.conftest import MICRO
from tests.rehearsal.conftest import Checkout, Cloud, Stage, eventually


def recipe(folder: Path, compute: str) -> Path:
    file = folder / "small.yaml"
    file.write_text(MICRO.read_text() + f"compute: {{{compute}}}\n")
    return file


def last(out: str) -> str:
    """The message: after what containers said, before what an interpreter says that is interrupted at its end."""
    before, error, message = f"\n{out}".rpartition("\nerror: ")
    message = message.partition("\nException ignored in")[0]
    assert error and "Traceback" not in message and "Traceback" not in before.partition("started as")[0]
    return message


def test_a_secret_that_is_missing_is_named_with_the_command_that_makes_it(stage: Stage, checkout: Checkout) -> None:
    checkout.change("configs/cloud.yaml", "\nsecrets: []", "\nsecrets: [wandb]")
    message = last(checkout.run("fetch", MICRO, "secret", code=2))
    assert "`modal secret create --force tuneline-wandb --from-json FILE`" in message and "cloud.yaml" in message
    assert '{"WANDB_API_KEY": "…"}' in message
    stage.modal("secret", "create", "tuneline-wandb", "WORD=x")
    assert "missing key(s): WANDB_API_KEY" in last(checkout.run("fetch", MICRO, "secret", code=2))
    assert not (stage.volume("runs") / "secret").exists()
    checkout.modal("deploy", "app.py", "--name", "secretless")  # what it lacks it is told when it needs it


def test_a_pipeline_run_whose_container_cannot_import(checkout: Checkout) -> None:
    checkout.change("images/cpu.py", "image = with_source(packages)", "image = packages")
    message = last(checkout.run("fetch", MICRO, "lacking", code=1))
    assert message.startswith(
        "the pipeline run cannot start its container: ModuleNotFoundError: No module named 'tuneline'"
    )
    assert "FOLDERS in images/source.py" in message


def test_a_stage_whose_container_cannot_import(checkout: Checkout) -> None:
    checkout.change("images/train.py", "on_cpu = with_source(with_locked(", "on_cpu = (with_locked(")
    message = last(checkout.run("train", MICRO, "lacking", "--only", code=1))
    assert message.startswith("train cannot start its container: ModuleNotFoundError: No module named 'tuneline'")


def test_a_stage_that_is_out_of_memory(stage: Cloud, tmp_path: Path) -> None:
    hungry = recipe(tmp_path, "prepare: {memory_gib: 0.05}")
    message = last(stage.modal("run", "app.py::prepare", "--only", "--recipe", str(hungry), "--run", "hungry", code=1))
    assert "prepare was lost" in message and "out of memory" in message
    assert "raise compute.prepare.memory_gib, now 0.05; run the same command again" in message


def test_a_stage_that_is_out_of_time(stage: Cloud, tmp_path: Path) -> None:
    slow = recipe(tmp_path, "prepare: {hours: 0.00001}")
    message = last(stage.modal("run", "app.py::prepare", "--only", "--recipe", str(slow), "--run", "slow", code=1))
    assert "raise compute.prepare.hours, now 1e-05, and run the same command again" in message


def test_a_training_that_diverges_is_paid_for_once_and_says_what_to_change(
    stage: Stage, cloud: Path, tmp_path: Path
) -> None:
    shutil.copytree(cloud / "prepare", stage.volume("runs") / "diverging/prepare")
    diverging = tmp_path / "diverging.yaml"
    diverging.write_text(MICRO.read_text().replace("learning_rate: 2.0e-3", "learning_rate: 1.0e+30"))
    containers = stage.rehearsal.plane.state.containers
    before = len(containers)
    out = stage.modal("run", "app.py::train", "--only", "--recipe", str(diverging), "--run", "diverging", code=1)
    message = last(out)
    assert message.startswith("diverged at step ") and "lower train.learning_rate (now 1e+30" in message
    assert [c.function.name for c in list(containers.values())[before:]].count("train_cpu") == 1


def test_a_stage_that_does_not_stop(checkout: Checkout) -> None:
    checkout.change("configs/compute.py", "STOP_S = 60.0", "STOP_S = 2.0")
    checkout.change(
        "volumes/stage_container.py",
        "    guard_output()\n    if not",
        "    __import__('time').sleep(600)\n    guard_output()\n    if not",
    )
    hangs = recipe(checkout.folder, "prepare: {hours: 0.0003, retries: 0}")
    message = last(checkout.run("prepare", hangs, "hangs", "--only", code=1))
    assert "prepare took too long and was stopped" in message and "raise compute.prepare.hours, now 0.0003" in message


def test_the_same_command_follows_what_is_being_made_and_is_told_of_its_end(stage: Stage, checkout: Checkout) -> None:
    checkout.change(
        "volumes/stage_container.py",
        "    guard_output()\n    if not",
        "    __import__('time').sleep(600)\n    guard_output()\n    if not",
    )
    containers = stage.rehearsal.plane.state.containers
    before, first = len(containers), checkout.start("prepare", MICRO, "held", "--only")
    eventually(lambda: any(c.function.name == "prepare_cpu" for c in list(containers.values())[before:]), 120)
    second = checkout.start("prepare", MICRO, "held", "--only")
    assert second.stdout and "following it" in next(line for line in second.stdout if "is already running as" in line)
    assert "is cancelled" in stage.tuneline("runs", "cancel", "held", "--modal")
    for process in (first, second):
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 1 and last(out).startswith("the pipeline run ended without a result: cancelled")


def test_an_app_of_somebody_else_is_not_replaced(stage: Stage, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("import modal\napp = modal.App('tuneline')\n\n@app.function()\ndef f() -> None: ...\n")
    stage.modal("deploy", str(other))
    assert "would be replaced: `modal app stop tuneline` ends it" in stage.tuneline("deploy", code=2)
    stage.modal("app", "stop", "tuneline", "--yes")
    assert "Endpoint.serve -> http" in stage.tuneline("deploy")
    assert "Endpoint.serve -> http" in stage.tuneline("deploy")  # its own it replaces
