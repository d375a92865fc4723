"""What a container is, and how it ends: through the real client and container entrypoint."""

import socket
from pathlib import Path

from tests.rehearsal.conftest import APPS, Stage
from tuneline.core.paths import ROOT

MACHINE = f"{APPS / 'machine.py'}::main"


def run(stage: Stage, what: str, *words: str, code: int = 0) -> str:
    return stage.modal("run", MACHINE, "--what", what, *words, code=code)


def test_two_containers_listen_on_one_port(stage: Stage) -> None:
    assert "containers 2" in run(stage, "ports")


def test_of_this_machine_a_container_sees_little_and_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    file = ROOT / "tests" / "written"
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = run(stage, "look", "--outside", str(server.getsockname()[1]), "--file", str(file))
    assert "'reached': False, 'written': False, 'imported': False" in out
    assert "'processes': 2" in out
    assert not file.exists() and not Path("/tmp/mine").exists()


def test_a_port_of_this_machine_is_let_through_when_asked_for(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stage.rehearsal.plane.let_through.append(port := server.getsockname()[1])
        assert "'reached': True" in run(stage, "look", "--outside", str(port), "--file", "/root/x")
        stage.rehearsal.plane.let_through.remove(port)


def test_who_uses_more_than_its_memory_is_killed_and_told_so(stage: Stage) -> None:
    out = run(stage, "eat", code=1)
    assert "used more than its 300 MiB of memory" in out
    assert "InternalFailure: the container was lost 3 times: out of memory" in out


def test_a_container_that_leaves_is_started_again_then_given_up(stage: Stage) -> None:
    out = run(stage, "leave", code=1)
    assert out.count("it ended with exit code 7") == 4  # thrice in its log, once in the error


def test_a_cancelled_call_ends_its_input_and_its_container_if_asked_to(stage: Stage) -> None:
    out = run(stage, "cancel")
    assert "cancelled cancel-False InputCancellation" in out and "cancelled cancel-True KeyboardInterrupt" in out


def test_a_queue_gives_in_order(stage: Stage) -> None:
    assert "queue 1 [2, 3] 2 [2, 3] None" in run(stage, "queue")
    assert "machine-queue" in stage.modal("queue", "list")


def test_a_detached_run_goes_on_and_is_listed_read_and_stopped(stage: Stage) -> None:
    out = stage.modal("run", "--detach", MACHINE, "--what", "hold", MODAL_LOGS_TIMEOUT="1")
    assert "spawned fc-" in out and stage.rehearsal.has_detached_calls()
    app = next(a for a in stage.rehearsal.plane.state.apps.values() if a.name == "machine" and not a.done)
    assert "(detached)" in stage.modal("app", "list")
    assert len(stage.modal("container", "list", "--json")) > 10
    stage.modal("app", "stop", app.id, "--yes")
    assert not stage.rehearsal.has_detached_calls()


def test_secrets_are_made_and_listed_by_the_command_and_never_shown(stage: Stage) -> None:
    stage.modal("secret", "create", "machine-secret", "KEY=hush")
    listed = stage.modal("secret", "list")
    assert "machine-secret" in listed and "hush" not in listed
    assert "exists already" in stage.modal("secret", "create", "machine-secret", "KEY=new", code=1)
    stage.modal("secret", "delete", "machine-secret", "--yes")
    assert "machine-secret" not in stage.modal("secret", "list")


def test_a_volume_is_filled_listed_read_and_emptied_by_the_command(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up/a.txt").write_text("content")
    stage.modal("volume", "create", "machine")
    stage.modal("volume", "put", "machine", str(tmp_path / "up"), "/in")
    assert "a.txt" in stage.modal("volume", "ls", "machine", "/in")
    stage.modal("volume", "get", "machine", "in/a.txt", str(tmp_path / "down.txt"))
    assert (tmp_path / "down.txt").read_text() == "content"
    stage.modal("volume", "rm", "machine", "/in/a.txt")
    assert "a.txt" not in stage.modal("volume", "ls", "machine", "/in")
    assert stage.modal("volume", "get", "machine", "in/none", str(tmp_path), code=1)
