"""What is printed: no text of others reaches a terminal as a command to it."""

import io
import json
import os
import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tuneline.core.safe_console import SafeConsole
from tuneline.core.terminal import echo, printable

ATTACKS = {
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "clipboard, C1": "\x9d52;c;cm0gLXJmIH4=\x9c",
    "title": "\x1b]0;owned\x07",
    "colour": "\x1b[32mPASS\x1b[0m",
    "cursor": "\x1b[2A\x1b[2K",
    "overwrite": "fail\rpass",
    "erase": "fail\b\b\b\bpass",
    "link": "\x1b]8;;http://evil.example\x1b\\here\x1b]8;;\x1b\\",
    "order": "pass\u202elaf\u202c",
    "half a character": "caf\udce9",
    "delete": "\x7f",
}
OBEYED = {chr(i) for i in (*range(0x20), *range(0x7F, 0xA0))} - {"\n", "\t"}


def is_safe(shown: str) -> bool:
    """Whether no character of it is one that a terminal obeys, or that cannot be encoded."""
    return not OBEYED & set(shown) and not any(
        unicodedata.category(c) == "Cs" or unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "RLI", "LRI")
        for c in shown
    )


@given(st.text(st.characters()))
def test_no_text_is_obeyed(text: str) -> None:
    assert is_safe(printable(text)) and is_safe(printable(text, one_line=True))
    assert "\n" not in printable(text, one_line=True)


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_what_is_harmless_is_not_changed(text: str) -> None:
    assert printable(text) == text
    assert printable("a\tb\r\nc") == "a\tb\nc"


@given(st.text(st.characters(codec="utf-8")))
def test_json_keeps_its_meaning(text: str) -> None:
    assert json.loads(printable(json.dumps([text], ensure_ascii=False))) == [text]


def show(text: str, *, colours: bool) -> str:
    """What a console prints of a text as a string, in styles, in a table and in a panel."""
    table = Table(text, title=text)
    table.add_row(text, Text(text, style="bold"))
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=colours, width=100)
    for renderable in (text, Text(text, style="green"), table, Panel(text, title=text)):
        console.print(renderable)
    return out.getvalue()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_console_prints_colours_of_ours_and_no_commands_of_others(attack: str) -> None:
    assert is_safe(show(f"x{attack}y", colours=False))
    coloured = show(f"x{attack}y", colours=True)
    assert "\x1b[32m" in coloured.replace(attack, "")
    assert attack not in coloured and is_safe(re.sub("\x1b\\[[\\d;]*m", "", coloured))


def test_what_is_escaped_is_shown_whole_in_a_table() -> None:
    out = io.StringIO()
    table = Table("tool")
    table.add_row("a\x1b]52;c;eA==\x07b")
    SafeConsole(file=out, width=100).print(table)
    assert r"│ a\u001b]52;c;eA==\u0007b │" in out.getvalue()


def test_markup_in_a_string_is_text() -> None:
    out = io.StringIO()
    SafeConsole(file=out, force_terminal=True).print("[red]a[/red] [link=http://x]b[/link] [/] :smile:")
    assert out.getvalue() == "[red]a[/red] [link=http://x]b[/link] [/] :smile:\n"


def test_bars_show_what_others_wrote_as_text() -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, width=100)
    with Progress(TextColumn("{task.fields[text]}", markup=False), BarColumn(), console=console) as bars:
        bars.add_task("x", total=2, text="a\x1b]52;c;eA==\x07b")
        bars.refresh()
    assert r"a\u001b]52;c" in out.getvalue() and "\x1b]52" not in out.getvalue()


PRINTS = """
import logging, sys, warnings
from tuneline.core.safe_console import SafeConsole
from tuneline.core.terminal import echo, guard_output
guard_output()
guard_output()
text = {text!r}
print("print", text)
sys.stdout.write("write " + text + chr(10))
SafeConsole().print("console", text)
echo("echo " + text)
print("after", text)
logging.getLogger("x").warning("log %s", text)
warnings.warn("warning " + text)
raise ValueError("raised " + text)
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_guarded_process_prints_nothing_that_is_obeyed(attack: str, encoding: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", PRINTS.format(text=attack + "é→😀")],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        check=False,
    )
    out, err = process.stdout.decode(encoding), process.stderr.decode(encoding)
    assert is_safe(out) and is_safe(err)
    assert [line.split()[0] for line in out.splitlines()] == ["print", "write", "console", "echo", "after"]
    assert "log " in err and "warning " in err and "ValueError: raised " in err and process.returncode == 1
    if encoding == "ascii":
        assert r"\xe9->\U0001f600" in out


def test_echo_prints_on_a_stream_that_is_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    echo("a\x1bb")
    echo("c\x9bd", error=True)
    assert capsys.readouterr() == ("a\\u001bb\n", "c\\u009bd\n")
