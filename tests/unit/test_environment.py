"""Environment variables: one table, one reader, and an answer for a name that is none."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import tuneline
from tuneline.core.environment import (
    LLAMAHOME,
    OF_CHILD_PROCESSES,
    OF_OTHERS,
    OF_TESTS,
    OURS,
    check_environment,
    list_llamahome_names,
)
from tuneline.core.errors import BadRequest
from tuneline.core.paths import ROOT

PACKAGES = ("cli", "configs", "core", "endpoints", "engines", "images", "publish", "rehearsal", "stages", "volumes")
CALLS = ("os.getenv", "getenv", "os.environ.get", "environ.get")
READER = ROOT / "core/environment.py"


def reads_environment(source: str) -> bool:
    """Whether a file reads one variable of the environment: by `get`, `getenv`, an index, or `in`."""
    tree = ast.parse(source)
    names = {"os.environ", "environ"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "os.getenv",
            "getenv",
            "os.environ.get",
            "environ.get",
        ):
            return True
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and ast.unparse(node.value) in names:
            return True
        if isinstance(node, ast.Compare) and any(ast.unparse(part) in names for part in node.comparators):
            return True
    return False


def test_variables_are_read_in_one_place() -> None:
    files = [ROOT / "app.py", *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))]
    assert len(files) > 300 and READER in files
    reading = [str(file.relative_to(ROOT)) for file in files if reads_environment(file.read_text("utf-8"))]
    reading.remove("publish/space_page/app.py")  # it runs on the hub, without us
    assert reading == ["core/environment.py"], "use read_variable or read_stated_variable"


@pytest.mark.parametrize("read", ["os.environ.get('A')", "os.getenv('A')", "os.environ['A']", "'A' in os.environ"])
def test_a_reader_is_seen(read: str) -> None:
    assert reads_environment(f"import os\nx = [{read}]\n")
    assert not reads_environment("import os\nos.environ['A'] = 'b'\nsubprocess.run(['x'], env=os.environ | {})\n")


def test_the_tables_of_settings_md_are_those_of_the_code() -> None:
    page = (ROOT / "docs/settings.md").read_text("utf-8")
    rows = re.findall(r"(?m)^\| `([A-Z_]+)` \| (.*) \|$", page)
    ours = [(name, f"{about.default} | {about.meaning}") for name, about in OURS.items()]
    assert rows == [*ours, *OF_OTHERS.items(), *LLAMAHOME.items()]
    assert all(f"`{name}`" in page for name in OF_CHILD_PROCESSES)


def test_every_name_that_the_sources_say_is_in_the_table() -> None:
    files = [file for folder in (*PACKAGES, "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    files = [file for file in files if file.name not in (Path(__file__).name, "test_modal_command.py")]
    said = {name for file in files for name in re.findall(r"\bTUNELINE_[A-Z_]+[A-Z]\b", file.read_text("utf-8"))}
    said = {name for name in said if not name.startswith(OF_TESTS)}
    assert OURS.keys() - {"TUNELINE_COMPARISONS", "TUNELINE_LIVE"} <= said <= OURS.keys() | set(OF_CHILD_PROCESSES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TUNELINE_RUN", "x", "TUNELINE_RUN: no setting of ours; did you mean TUNELINE_RUNS?"),
        ("TUNELINE_CALL_HOURS", "24", "TUNELINE_CALL_HOURS=24: hours, at most 23"),
        ("TUNELINE_USD_PER_HOUR", "cheap", "TUNELINE_USD_PER_HOUR=cheap: a price"),
        ("TUNELINE_GPU_SHARE", "90", "a share from 0.01 to 1"),
    ],
)
def test_what_is_no_setting_is_refused(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadRequest) as caught:
        check_environment()
    assert message in str(caught.value)


def test_a_command_refuses_it_and_answers_llamahome_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.conftest.CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNELINE_MODEL", "x")
    assert "did you mean TUNELINE_MODELS?" in tuneline(tmp_path, "runs", "ls", code=2).stderr
    monkeypatch.delenv("TUNELINE_MODEL")
    monkeypatch.setenv("LLAMA_MAX_SEQ_LEN", "4096")
    assert list_llamahome_names().keys() == {"LLAMA_MAX_SEQ_LEN"}
    answers = [tuneline(tmp_path, "runs", "ls").stderr for _ in range(2)]
    assert "`data.max_tokens`" in answers[0] and "LLAMA_MAX_SEQ_LEN" not in answers[1]
