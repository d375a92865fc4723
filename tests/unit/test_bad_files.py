"""Whatever is in a file that users bring, reading it ends soon, in little memory, with an error of ours, or well."""

import gzip
import io
import random
import time
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.bad_files import samples
from tests.bad_files.damage import damage
from tests.bad_files.guarded import run_guarded
from tests.bad_files.registry import (
    READERS,
    STATE_READERS,
    Reader,
    read_data,
    read_grammar,
    read_problems,
    read_recipe,
    read_suites,
    read_tools,
)
from tuneline.core.errors import BadRecipe, TunelineError
from tuneline.core.user_files import MIB
from tuneline.stages.prepare.rendering.chat_templates import ChatTemplate

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


def read_damaged(
    reader: Reader, numbers: Iterable[int], folder: Path, monkeypatch: pytest.MonkeyPatch, exits: tuple[int, ...] = (2,)
) -> None:
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
            assert error.exit_code in exits and len(str(error)) < 8000, f"{name}, number {number}: {str(error)[:500]}"
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


@pytest.mark.parametrize("name", STATE_READERS)
@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_state_is_named(name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no input of the user's, so its error may be StageFailed too."""
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    place(STATE_READERS[name].files(), tmp_path, monkeypatch)
    STATE_READERS[name].read(tmp_path)
    read_damaged(STATE_READERS[name], range(count), tmp_path, monkeypatch, exits=(1, 2))


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
    "a list in itself": ("data: &a [*a]", "an alias refers to a node that contains it"),
    "very many values": (f"[{'a,' * 1_000_000}]", "more than 300,000 values"),
    "too large": ("a: " + "x" * (5 << 20), "larger than 4 MiB"),
    "an endless number": (f"data: {'1' * 100_000}", "not a valid int"),
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
    "padding": ("items: [{ask: '{x:>3000000000}', says: [a], each: [{x: b}]}]", "braces may only contain a name"),
    "an attribute": ("items: [{ask: '{x.__class__}', says: [a], each: [{x: b}]}]", "braces may only contain a name"),
    "a value very often": (
        f"items: [{{ask: '{'{x}' * 3000}', says: [a], each: [{{x: {'y' * 3000}}}]}}]",
        "longer than 1,000,000 characters",
    ),
    "items times values": (
        f"items: [{{ask: [{'a,' * 2000}], says: [a], each: [{'{x: y},' * 2000}]}}]",
        "make 4,000,000 requests",
    ),
    "inherits itself": ("inherit: suite.yaml\nitems: [{ask: a, says: [b]}]", "inherit: suite.yaml: circular"),
    "more rows than there are": (
        "grammar: grammar.yaml\nrows: 100000",
        "generates only 4 different requests, not 100000; ask for fewer rows",
    ),
}


@pytest.mark.parametrize("name", SUITE_BOMBS)
def test_suites_have_limits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, says = SUITE_BOMBS[name]
    files = {"suite.yaml": text.encode(), "recipe.yaml": samples.RECIPE_WITH_SUITE, "rows.jsonl": b"{}"}
    place(files | {"grammar.yaml": VALUES.format(say="send {x}", values="  a: (a|b)").encode()}, tmp_path, monkeypatch)
    assert says in run_guarded(lambda: read_suites(tmp_path)).message


def zstd_of(piece: bytes, times: int) -> bytes:
    """Return a zstd file of `times` MiB repetitions of a piece, made without holding them."""
    stream = zstandard.ZstdCompressor().compressobj()
    return b"".join([stream.compress(piece * MIB) for _ in range(times)] + [stream.flush()])


def repeating_parquet() -> bytes:
    """Return a small Parquet file of 20,000 rows that are one text of a megabyte."""
    out, texts = io.BytesIO(), pa.array(["word " * 200_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), texts)
    pq.write_table(pa.table({"text": column}), out, compression="zstd", dictionary_pagesize_limit=10 * MIB)
    return out.getvalue()


def bad_utf8_parquet() -> bytes:
    out, texts = io.BytesIO(), pa.array([b"a whole text", b"\xff\xfe", b"another text"])
    raw = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    pq.write_table(pa.table({"text": raw}), out)
    return out.getvalue()


ROW = b'{"text": "%s"}\n'
DATA_BOMBS = {
    "line.jsonl.gz": (lambda: gzip.compress(ROW % (b"a" * (400 * MIB))), "a line of more than 16 MiB"),
    "blank.jsonl.zst": (lambda: zstd_of(b"          \n", 10), "more than 200 times its size"),
    "cut.jsonl.zst": (lambda: zstandard.compress(ROW % random.Random(0).randbytes(9999).hex().encode())[:-99], "cut"),
    "item.json": (lambda: b'["' + b"a" * (100 * MIB) + b'"]', "no JSON value ends within 16 MiB"),
    "lists.json": (lambda: b"[[" + b"[]," * (4 * MIB) + b"[]]]", "no JSON value ends within 16 MiB"),
    "lists.jsonl": (lambda: b'{"text": [' + b"[]," * (5 * MIB) + b"[]]}\n", "more than 1,000,000 lists and objects"),
    "deep.jsonl": (lambda: b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "not JSON"),
    "deep.json": (lambda: b'[{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "nested too deeply"),
    "deep-200.json": (lambda: b'[{"text": ' + b"[" * 200 + b"]" * 200 + b"}]", "nested more than 100 deep"),
    "quote.csv": (lambda: b'prompt,completion\na,"' + b"b\n" * (50 * MIB), "is a quotation mark not closed?"),
    "large.txt": (lambda: b"a" * (65 * MIB), "larger than 64 MiB"),
    "short.txt": (lambda: b"a\n" * MIB, "more than 1,000,000 lines"),
    "repeating.parquet": (repeating_parquet, "more than 200 times its size"),
    "bad.parquet": (bad_utf8_parquet, "row 2 cannot be read: 'utf-8' codec"),
}


@pytest.mark.parametrize("name", DATA_BOMBS)
def test_data_files_have_limits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, says = DATA_BOMBS[name]
    place({name: content()}, tmp_path, monkeypatch)
    assert says in run_guarded(lambda: read_problems(name, tmp_path)).message


SLOW_TEXTS = {
    "short lines": b"a\n" * 200_000,
    "short sentences": b"A b. " * 200_000,
    "no address": b"a." * 500_000,
    "addresses": b"ann@firm.it " * 50_000,
    "no token": b"eyJaaaaaaaaaa-" * 50_000,
    "no account": b"AB12 " * 100_000,
    "no link": b"a+" * 500_000,
    "digits": b"1" * 1_000_000,
}


@pytest.mark.parametrize("name", SLOW_TEXTS)
def test_time_is_in_proportion_to_the_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place({"book.txt": SLOW_TEXTS[name]}, tmp_path, monkeypatch)
    run_guarded(lambda: read_data("book.txt", tmp_path))


DOUBLED = "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
TEMPLATE_BOMBS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "calls": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "output": "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "a product": "{{ 'x' * 10**9 }}",
    "a power": "{{ 9**9**9**9**9 }}",
    "a filter": "{{ 'x'|center(1000000000) }}",
    "a method": "{{ 'x'.ljust(10**9) }}",
    "a mapped filter": "{{ ['x']|map('center', 10**9)|list }}",
    "a width": "{{ '{:>1000000000}'.format(1) }}",
    "another width": "{{ '%1000000000d' % 1 }}",
    "indented": "{{ messages|tojson(indent=10**9) }}",
    "doubled by ~": DOUBLED % ("'xx'", "ns.x ~ ns.x"),
    "doubled by +": DOUBLED % ("[1]", "ns.x + ns.x"),
    "multiplied": DOUBLED % ("3", "ns.x * ns.x"),
    "replaced": DOUBLED % ("'x' * 1000", "ns.x|replace('x', ns.x)"),
    "set blocks": "{% set x %}xxxxxxxx{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
}


@pytest.mark.parametrize("name", TEMPLATE_BOMBS)
def test_chat_templates_have_limits(name: str) -> None:
    from jinja2.exceptions import SecurityError

    def render() -> None:
        try:
            ChatTemplate(TEMPLATE_BOMBS[name], {}).mark([{"role": "user", "content": "q"}], None)
        except SecurityError as error:
            raise BadRecipe(str(error)) from None

    assert run_guarded(render).message


TREE = {"properties": {"to": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "type": "object"}
CHAIN = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {"type": "string"}}
RING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{(n + 1) % 24}"}] * 2} for n in range(24)}
SCHEMA_BOMBS = {
    "from the network": ({"properties": {"to": {"$ref": "http://127.0.0.1:9/x"}}}, "points to nothing in this schema"),
    "from the disk": ({"properties": {"to": {"$ref": "file:///etc/passwd"}}}, "points to nothing in this schema"),
    "doubling": ({"properties": {"to": {"$ref": "#/$defs/d0"}}, "$defs": CHAIN}, "more than 100,000 schemas"),
    "doubling for ever": ({"properties": {"to": {"$ref": "#/$defs/d0"}}, "$defs": RING}, "refers to the schema"),
    "no schema": ({"properties": {"to": {"type": "strig"}}}, 'parameters: properties.to.type: "strig" is not valid'),
    "no list": ({"properties": {"to": {}}, "required": 5}, "required: a list of names"),
}


@pytest.mark.parametrize("name", SCHEMA_BOMBS)
def test_schemas_of_tools_are_read_offline_and_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema, says = SCHEMA_BOMBS[name]
    tools = {"tools": {"whatsapp.send": {"description": "d", "parameters": schema}}}
    place({"tools.yaml": repr(tools).encode(), "rows.jsonl": samples.json_lines()}, tmp_path, monkeypatch)
    assert says in run_guarded(lambda: read_tools(tmp_path)).message
