"""Whatever is in a file that users bring, reading it ends soon, in little memory, with an error of ours, or well."""

import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.bad_files import samples
from tests.bad_files.damage import damage
from tests.bad_files.guarded import run_guarded
from tests.bad_files.registry import READERS, Reader, read_grammar, read_recipe, read_suites, read_tools
from tuneline.core.errors import TunelineError

SECONDS = 5.0
"""Most that a damaged file may take, of a core's time."""


def place(files: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a sample, and make its folder the current one and the place of runs, models and caches."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    monkeypatch.chdir(folder)
    for variable in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{variable}", str(folder / variable.lower()))


def read_damaged(reader: Reader, numbers: Iterable[int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = reader.files()
    place(files, folder, monkeypatch)
    name, content = next(iter(files.items()))
    before = sorted(folder.rglob("*"))
    for number in numbers:
        (folder / name).write_bytes(damage(content, reader.kinds, number))
        started = time.process_time()
        try:
            reader.read(folder)
        except TunelineError as error:
            assert error.exit_code == 2 and len(str(error)) < 8000, f"{name}, number {number}: {str(error)[:500]}"
        except Exception as error:
            raise AssertionError(f"{name}, number {number}: {type(error).__name__}") from error
        assert time.process_time() - started < SECONDS, f"{name}, number {number}"
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(READERS[name].files(), tmp_path, monkeypatch)
    READERS[name].read(tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_or_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_damaged(READERS[name], range(READERS[name].quick), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_thousand_damaged_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_damaged(READERS[name], range(1000), tmp_path, monkeypatch)


def doubling(line: str, count: int = 30) -> str:
    """Return lines in which each of the names a0, a1, … stands twice in the next, as `line` writes it."""
    return "".join(line.format(name=f"a{n}", inner=f"a{n - 1}") for n in range(1, count))


ALIASES = "a0: &a0 [x, x, x]\n" + doubling("{name}: &{name} [*{inner}, *{inner}]\n")
MERGES = "a0: &a0 {x: 1}\n" + doubling("{name}: &{name} {{<<: [*{inner}, *{inner}]}}\n")
YAML_BOMBS = {
    "200 kB of [": ("[" * 200_000, "nested more than 100 deep"),
    "200 kB of dashes": ("- " * 100_000, "nested more than 100 deep"),
    "aliases": (ALIASES, "with aliases written out"),
    "merged aliases": (MERGES, "with aliases written out"),
    "a list in itself": ("data: &a [*a]", "an alias refers to what it is in"),
    "very many values": (f"[{'a,' * 1_000_000}]", "more than 300,000 values"),
    "too large": ("a: " + "x" * (5 << 20), "larger than 4 MiB"),
    "an endless number": (f"data: {'1' * 100_000}", "no int that can be read"),
}


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_yaml_has_limits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, says = YAML_BOMBS[name]
    place({"recipe.yaml": text.encode()}, tmp_path, monkeypatch)
    assert says in run_guarded(lambda: read_recipe(tmp_path)).message


def test_a_recipe_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place({}, tmp_path, monkeypatch)
    (tmp_path / "recipe.yaml").symlink_to("/dev/zero")
    assert "a device or a pipe, not a file" in run_guarded(lambda: read_recipe(tmp_path)).message


VALUES = "openers: ['']\nclosers: ['']\nhandlers: {{a.b: {{slots: {{x: a}}, say: ['{say}']}}}}\nvalues:\n{values}"
GRAMMAR_BOMBS = {
    "a value in itself": (VALUES.format(say="{x}", values="  a: '{b}'\n  b: '({a}|c)'\n"), "a: contains itself: a → b"),
    "doubling values": (
        VALUES.format(
            say="{x}", values="  a0: ''\n" + doubling("  {name}: '{{{inner}}}{{{inner}}}'\n") + "  a: '{a29}'"
        ),
        "can become longer than 100,000",
    ),
    "one slot very often": (VALUES.format(say="{x}" * 300, values=f"  a: {'y' * 900}"), "can become longer than"),
    "brackets in brackets": (VALUES.format(say="(" * 50_000, values="  a: b"), "more than 100 choices inside"),
    "an empty range": (VALUES.format(say="<9-1>", values="  a: b"), "<9-1>: a range is from a number to a higher"),
    "an endless range": (VALUES.format(say=f"<1-{'9' * 5000}>", values="  a: b"), "a range is from a number to"),
    "inherits itself": ("inherit: grammar.yaml\n", "openers: Field required"),
}


@pytest.mark.parametrize("name", GRAMMAR_BOMBS)
def test_grammars_have_limits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, says = GRAMMAR_BOMBS[name]
    place({"grammar.yaml": text.encode()}, tmp_path, monkeypatch)
    assert says in run_guarded(lambda: read_grammar(tmp_path)).message


SUITE_BOMBS = {
    "padding": ("items: [{ask: '{x:>3000000000}', says: [a], each: [{x: b}]}]", "only a name can be in braces"),
    "an attribute": ("items: [{ask: '{x.__class__}', says: [a], each: [{x: b}]}]", "only a name can be in braces"),
    "a value very often": (
        f"items: [{{ask: '{'{x}' * 3000}', says: [a], each: [{{x: {'y' * 3000}}}]}}]",
        "longer than 1,000,000 characters",
    ),
    "items times values": (
        f"items: [{{ask: [{'a,' * 2000}], says: [a], each: [{'{x: y},' * 2000}]}}]",
        "make 4,000,000 requests",
    ),
    "inherits itself": ("inherit: suite.yaml\nitems: [{ask: a, says: [b]}]", "inherit: suite.yaml: leads back"),
    "more rows than there are": (
        "grammar: grammar.yaml\nrows: 100000",
        "makes 4 different requests, not 100000; ask for fewer rows",
    ),
}


@pytest.mark.parametrize("name", SUITE_BOMBS)
def test_suites_have_limits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, says = SUITE_BOMBS[name]
    files = {"suite.yaml": text.encode(), "recipe.yaml": samples.RECIPE_WITH_SUITE, "rows.jsonl": b"{}"}
    place(files | {"grammar.yaml": VALUES.format(say="send {x}", values="  a: (a|b)").encode()}, tmp_path, monkeypatch)
    assert says in run_guarded(lambda: read_suites(tmp_path)).message


TREE = {"properties": {"to": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "type": "object"}
CHAIN = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {"type": "string"}}
RING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{(n + 1) % 24}"}] * 2} for n in range(24)}
SCHEMA_BOMBS = {
    "from the network": ({"properties": {"to": {"$ref": "http://127.0.0.1:9/x"}}}, "leads to no place in this schema"),
    "from the disk": ({"properties": {"to": {"$ref": "file:///etc/passwd"}}}, "leads to no place in this schema"),
    "doubling": ({"properties": {"to": {"$ref": "#/$defs/d0"}}, "$defs": CHAIN}, "more than 100,000 schemas"),
    "doubling for ever": ({"properties": {"to": {"$ref": "#/$defs/d0"}}, "$defs": RING}, "leads back to the schema"),
    "no schema": ({"properties": {"to": {"type": "strig"}}}, 'parameters: properties.to.type: "strig" is not valid'),
    "no list": ({"properties": {"to": {}}, "required": 5}, "required: a list of names"),
}


@pytest.mark.parametrize("name", SCHEMA_BOMBS)
def test_schemas_of_tools_are_read_offline_and_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema, says = SCHEMA_BOMBS[name]
    tools = {"tools": {"whatsapp.send": {"description": "d", "parameters": schema}}}
    place({"tools.yaml": repr(tools).encode(), "rows.jsonl": samples.json_lines()}, tmp_path, monkeypatch)
    assert says in run_guarded(lambda: read_tools(tmp_path)).message
