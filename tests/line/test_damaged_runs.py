"""Files of a run that are damaged or cannot be read: each command that needs them ends with a message, no traceback."""

import contextlib
import ctypes
import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MICRO
from tuneline import cli
from tuneline.core.paths import ROOT

MANIFESTS = [f"{stage}/manifest.json" for stage in ("prepare", "train", "convert", "evaluate")]
COMMANDS = (
    ("runs", "ls"),
    ("runs", "ls", "--json"),
    ("runs", "show", "whole"),
    ("runs", "show", "whole", "--json"),
    ("runs", "logs", "whole"),
    ("runs", "diff", "whole", "whole"),
    ("runs", "gc"),
    ("runs", "resume", "whole", "--until", "prepare"),
    ("cost",),
    ("report", "whole"),
    ("card", "whole"),
    ("compare", "whole:base", "whole:tuned-Q4_K_M"),
    ("rate", "whole:base", "whole:tuned-Q4_K_M"),
    ("judge", "whole", "--sheet", "sheet.csv"),
    ("promote", "whole", "--as", "name"),
    ("promote", "whole", "--as", "name", "--override", "a trial"),
    ("plan", str(MICRO), "--run", "whole"),
    ("prepare", str(MICRO), "--run", "whole"),
    ("chat", "whole", "hello"),
    ("serve", "whole"),
    ("load", "whole", "--seconds", "1"),
)
"""What reads a run. There is no llama.cpp here, so that what serves ends once it has read the run."""
SHAPES = ("", "null", "[]", "{}", '"text"', "1", "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\ufeff{}", "{}\n{}\n")
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
"""prctl(2), capabilities(7): without the two root, too, reads and writes only what it may."""


def run_command(*words: str) -> tuple[int, str]:
    """Return exit code and output of a command in this process; any exception but its exit is let out."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tuneline", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0), out.getvalue()


def damage(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield other shapes; then `count` of each: cut, a bit flipped, bytes replaced, a piece missing, a piece twice."""
    chance = random.Random(seed)
    yield from (shape.encode() for shape in SHAPES)
    for _ in range(count):
        at, length = chance.randrange(len(content)), chance.randrange(1, 200)
        yield content[:at]
        yield content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
        yield content[:at] + chance.randbytes(length) + content[at + length :]
        yield content[:at] + content[at + length :]
        yield content[: at + length] + content[at:]


def replace(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)  # it may be a hard link
    file.write_bytes(content)


def check(words: tuple[str, ...], about: str) -> None:
    try:
        code, out = run_command(*words)
    except Exception as error:
        raise AssertionError(f"{words}: {about}") from error
    assert code in (0, 1, 2, 3) and (code == 0 or out.strip()) and "this is a bug" not in out, (
        f"{words}: {about}: {out}"
    )


def check_damaged(run: Path, file: str, contents: Iterable[bytes], every: int = 4) -> None:
    """Run one command of `every` on each content of the file, so that each command meets some of them."""
    for i, content in enumerate(contents):
        for words in COMMANDS[i % every :: every]:
            replace(run / file, content)
            check(words, f"{file} is {content[:200]!r}…")


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, on a machine without llama.cpp."""
    shutil.copytree(home / "runs/whole", tmp_path / "runs/whole", copy_function=os.link)
    for name in ("runs", "policy", "cache"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("TUNELINE_MODELS", str(home / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/whole"


@pytest.mark.parametrize("file", ["recipe.json", "events.jsonl", *MANIFESTS])
def test_a_damaged_file_is_a_message(run: Path, file: str) -> None:
    check_damaged(run, file, damage((run / file).read_bytes(), seed=1, count=1))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["recipe.json", "events.jsonl", *MANIFESTS])
def test_a_thousand_damaged_files_are_messages(run: Path, file: str) -> None:
    check_damaged(run, file, damage((run / file).read_bytes(), seed=2, count=200), every=len(COMMANDS))


def test_a_damaged_draft_is_a_message(run: Path) -> None:
    draft = b'{"made_from": {"stage_version": 1, "settings": {}, "needs": {}}, "started": "2026-11-30T10:00:00Z", '
    (run / "train/manifest.json").unlink()
    check_damaged(run, "train/draft.json", damage(draft + b'"seconds": 1.0}', seed=1, count=1))


@pytest.mark.parametrize("file", ["recipe.json", "events.jsonl", "train/manifest.json", "logs", "report.html"])
def test_a_folder_in_place_of_a_file_and_the_reverse_are_messages(run: Path, file: str) -> None:
    if (run / file).is_dir():
        shutil.rmtree(run / file)
        (run / file).write_text("a file")
    else:
        (run / file).unlink()
        (run / file).mkdir()
    for words in COMMANDS:
        check(words, f"{file} is of another kind")


def test_a_damaged_recipe_is_written_again_by_its_run(run: Path) -> None:
    whole = (run / "recipe.json").read_text()
    replace(run / "recipe.json", b"{")
    code, out = run_command("card", "whole")  # the report needs its manifests alone
    assert code == 2 and f"`tuneline run FILE --run {run.name}`, where FILE is" in out
    code, out = run_command("train", str(MICRO), "--run", "whole")
    assert code == 0 and (run / "recipe.json").read_text() == whole


def test_damaged_lines_of_the_log_are_counted(run: Path) -> None:
    lines = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    replace(run / "events.jsonl", b"".join((*lines[:-1], b'{"time": "x\xff\n', b"null\n", lines[-1], b'{"time": "20')))
    code, out = run_command("runs", "logs", "whole")
    assert code == 0 and len(out.splitlines()) == len(lines) + 1
    assert "2 damaged lines of events.jsonl were skipped" in out  # the last one may still be written


@pytest.mark.parametrize("variable", ["TUNELINE_RUNS", "TUNELINE_MODELS", "TUNELINE_POLICY", "TUNELINE_CACHE"])
def test_an_empty_variable_is_no_folder(run: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "")
    results = {words: run_command(*words) for words in (*COMMANDS, ("keys", "ls"), ("models", "ls"), ("doctor",))}
    told = [words for words, (code, out) in results.items() if code == 2 and f"{variable} is empty: set it to" in out]
    assert told and (variable != "TUNELINE_RUNS" or len(told) >= len(COMMANDS))
    assert not (run.parent.parent / "whole").exists()


def in_a_process(words: tuple[tuple[str, ...], ...], **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run commands one after the other in a process that reads and writes only what its user may."""
    code = (
        "import sys; from tuneline import cli\n"
        f"for words in {words!r}:\n"
        "    sys.argv = ['tuneline', *words]\n"
        "    try: cli.main()\n"
        "    except SystemExit as ended: print('ENDED', words[0], ended.code, flush=True)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        check=False,
        preexec_fn=_drop_rights,
    )


def _drop_rights() -> None:
    for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0)


def codes(process: "subprocess.CompletedProcess[bytes]") -> list[int]:
    """Return the exit codes of `in_a_process`, after a look for tracebacks."""
    out = process.stdout.decode() + process.stderr.decode()
    assert process.returncode == 0 and "Traceback" not in out and "this is a bug" not in out, out
    return [int(line.split()[2].replace("None", "0")) for line in out.splitlines() if line.startswith("ENDED ")]


def test_a_folder_of_runs_that_is_read_only(run: Path) -> None:
    for folder in (run.parent, run, *(entry for entry in run.rglob("*") if entry.is_dir())):
        folder.chmod(0o555)
    process = in_a_process((*COMMANDS, ("train", str(MICRO), "--run", "new"), ("runs", "cancel", "whole")))
    for folder in (run.parent, run, *(entry for entry in run.rglob("*") if entry.is_dir())):
        folder.chmod(0o755)
    results = dict(zip([*COMMANDS, ("train", "new")], codes(process), strict=False))
    assert all(results[words] == 0 for words in COMMANDS if words[0] == "runs") and results["train", "new"] == 1
    assert results["report", "whole"] == 1
    assert f"{run.parent / 'new'}: Permission denied: change its permissions".encode() in process.stderr


def test_files_that_may_not_be_read(run: Path) -> None:
    files = [run / "recipe.json", run / "events.jsonl", *(run / name for name in MANIFESTS)]
    for file in files:
        content = file.read_bytes()
        replace(file, content)
        file.chmod(0)
    process = in_a_process(COMMANDS)
    assert set(codes(process)) <= {0, 1, 2} and b"recipe.json: Permission denied" in process.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # as in a Latin-1 locale, files too
    ],
)
def test_a_terminal_that_is_not_utf_8(run: Path, environment: dict[str, str]) -> None:
    process = in_a_process((*COMMANDS, ("--help",), ("schema",), ("doctor",), ("models", "ls")), **environment)
    assert 1 not in codes(process)[:8]
    assert process.stdout.isascii() and process.stderr.isascii() and b"Scoreboard" in process.stdout
