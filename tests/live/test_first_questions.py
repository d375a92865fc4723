"""The questions that decide most, in the order of docs/modal.md. If one fails, its comment says what to change."""

import re

from tests.rehearsal.apps.questions import WRITTEN
from tests.rehearsal.conftest import APPS, Cloud
from tests.rehearsal.test_rules import run as run_rule

QUESTIONS = f"{APPS / 'questions.py'}::main"


def ask(stage: Cloud, what: str) -> list[str]:
    out = stage.modal("run", QUESTIONS, "--what", what)
    [answer] = re.findall(rf"{what}: (.*)", out)
    return str(answer).split()


def test_the_free_space_of_a_volume_means_nothing(stage: Cloud) -> None:
    before, after = map(int, ask(stage, "free"))
    assert before - after < WRITTEN / 2  # else take MOUNTS out of PLACEHOLDERS in volumes/mounts.py: it may be believed


def test_a_container_that_ends_has_half_a_minute(stage: Cloud) -> None:
    [seconds] = map(float, ask(stage, "grace"))
    assert 20 < seconds < 60  # nothing counts on it; if it is long, training may save its checkpoint on preemption


def test_a_volume_is_not_reloaded_with_open_or_mapped_files_and_is_empty_meanwhile(stage: Cloud) -> None:
    out = run_rule(stage, "volume")  # type: ignore[arg-type]
    assert "mapped: there are open files" in out  # else an engine may map files of /runs
    assert "away, back: (True, True)" in out  # else policy and keys need no copy (volumes/policy_copy.py)


def test_the_image_is_debian_with_a_compiler_and_without_git(stage: Cloud) -> None:
    answer = " ".join(ask(stage, "system"))
    assert re.search(r"\((trixie|bookworm)\); Python 3\.1\d", answer)  # else IMAGE_BUILDERS in rehearsal/apps.py
    assert answer.endswith("git None")
