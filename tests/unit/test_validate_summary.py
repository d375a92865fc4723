"""What `validate` prints: rows kept, like faults together, the text they are about, and the verdict as JSON."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.stages.prepare.checks.personal_data import find_sensitive, quote_match
from tuneline.stages.prepare.validation import validate

KEY = "sk-proj-abcdefghij1234567890XYZ"


def chat(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


def write_rows(folder: Path) -> Path:
    good = [chat(f"what is number {i}?", f"it is {i}, of {i * 7} in {i * 13} halls") for i in range(60)]
    unanswered = [chat(f"open question {i}") for i in range(12)]
    call = {"function": {"name": "odd.one", "arguments": {}}}
    calls = [{"messages": [chat("x")["messages"][0], {"role": "assistant", "tool_calls": [call]}]} for _ in range(2)]
    private = chat(f"my mail is anna.rossi@gmail.com, and the key {KEY} is secret", "Thanks.")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*good, *unanswered, *calls, good[3], private]))
    return file


def test_rows_kept_and_like_faults_are_counted_together(tmp_path: Path) -> None:
    file = write_rows(tmp_path)
    summary = validate([file], None, tmp_path / "out").summary
    assert summary.startswith("61 of 76 rows kept\n")
    assert (
        "  12 times: row: the last message must be the assistant's\n"
        f"    {file}:61, {file}:62, {file}:63 and 9 more\n" in summary
    )
    assert "  2 times: tool 'odd.one' is called" in summary


def test_the_text_is_shown_and_secrets_are_masked_everywhere(tmp_path: Path) -> None:
    result = validate([write_rows(tmp_path)], None, tmp_path / "out")
    assert "my mail is anna.rossi@gmail.com, and the key sk-p…" in result.summary
    assert "what is number 3?" in result.summary.partition("duplicate")[2]
    for file in ("validation.json", "validation.html"):
        page = (tmp_path / "out" / file).read_text()
        assert "anna.rossi@gmail.com" in page and KEY not in page
    assert KEY not in result.summary


def test_no_part_of_a_secret_at_the_edge_of_a_quotation_is_shown() -> None:
    text = f"{KEY} {'x' * 25} anna.rossi@gmail.com {'y' * 25} {KEY}"
    (mail,) = [match for match in find_sensitive(text) if match.severity == "personal_data"]
    quoted = quote_match(text, mail)
    assert "anna.rossi@gmail.com" in quoted and "567890" not in quoted and "proj" not in quoted


def test_duplicates_that_are_dropped_are_not_kept(tmp_path: Path) -> None:
    write_rows(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {sources: [{path: rows.jsonl}], duplicates: drop}")
    lost, kept = validate([recipe], None, tmp_path / "out").summary.splitlines()[:2]
    assert lost.startswith("WARNING: 16 of 76 rows (21%) are left out: 12 × no answer") and kept == "60 of 76 rows kept"


def test_json_is_the_verdict_alone(tmp_path: Path) -> None:
    file = write_rows(tmp_path)
    done = CliRunner().invoke(app, ["validate", str(file), "--json", "--to", str(tmp_path / "out")])
    verdict = json.loads(done.stdout)
    assert done.exit_code == 2 and verdict["rows_kept"] == 61
    assert verdict["problems"]["no_answer"]["groups"][0]["count"] == 12
