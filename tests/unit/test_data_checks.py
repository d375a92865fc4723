"""What is wrong with a row is found, named and placed; what is right passes without a word."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks import duplicates, personal_data, text_checks
from tuneline.stages.prepare.checks.duplicates import DuplicateIndex
from tuneline.stages.prepare.checks.language import detect_language
from tuneline.stages.prepare.checks.problems import KINDS, Problem
from tuneline.stages.prepare.checks.text_checks import repair_text
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.formats.reader import read_file

CHARACTERS = [chr(code) for code in range(0x10000)]
USER, ANSWER = {"role": "user", "content": "a doc called plan"}, {"role": "assistant", "content": "It is there."}
RESULT = {"role": "tool", "content": "done"}


def call(name: str = "docs.create", arguments: Any = None) -> dict[str, Any]:
    given = {"title": "plan"} if arguments is None else arguments
    return {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": given}}]}


def kinds(tmp_path: Path, messages: list[Any], **rest: Any) -> list[str]:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": messages, **rest}, ensure_ascii=False) + "\n")
    toolbox = Toolbox(load_catalogue(ROOT / "configs/tools/handlers.yaml"))
    return [one.kind for one in read_file(file, toolbox) if isinstance(one, Problem)]


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ANSWER],
        [{"role": "system", "content": "Be brief."}, USER, ANSWER, USER, ANSWER],
        [USER, call()],
        [USER, call(), RESULT, ANSWER, USER, call(arguments='{"title": "plan"}'), RESULT, call(), RESULT, ANSWER],
    ],
)
def test_what_is_right_passes(tmp_path: Path, messages: list[Any]) -> None:
    assert kinds(tmp_path, messages) == []


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        ("wrong_role", [{"role": "bot", "content": "x"}, ANSWER]),
        ("wrong_order", [ANSWER]),
        ("wrong_order", [USER, USER, ANSWER]),
        ("wrong_order", [USER, ANSWER, ANSWER]),
        ("wrong_order", [USER, {"role": "system", "content": "late"}, ANSWER]),
        ("no_answer", [USER]),
        ("no_answer", [USER, {"role": "assistant", "content": " "}]),
        ("empty_message", [{"role": "user", "content": ""}, ANSWER]),
        ("unknown_tool", [USER, call("docs.creat")]),
        ("bad_arguments", [USER, call(arguments={"name": "plan"})]),
        ("bad_arguments", [USER, call(arguments={"title": 5})]),
        ("bad_arguments", [USER, call(arguments="{title")]),
        ("bad_arguments", [USER, call(arguments="[1]")]),
        ("bad_arguments", [USER, {"role": "assistant", "tool_calls": ["docs.create"]}]),
        ("result_without_call", [USER, RESULT, ANSWER]),
        ("result_without_call", [USER, call(), RESULT, RESULT, ANSWER]),
        ("call_without_result", [USER, call(), ANSWER]),
        ("control_token", [USER, {"role": "assistant", "content": "end<|eot_id|>"}]),
        ("not_text", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]),
        ("secret", [USER, {"role": "assistant", "content": "the key is AKIAIOSFODNN7EXAMPLE"}]),
        ("personal_data", [USER, {"role": "assistant", "content": "ask anna.rossi@gmail.com"}]),
        ("mojibake", [USER, {"role": "assistant", "content": "Il cafÃ© Ã¨ chiuso perchÃ© Ã¨ tardi."}]),
        ("bad_character", [USER, {"role": "assistant", "content": "caf\ufffd is closed"}]),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(tmp_path: Path, kind: str, messages: list[Any]) -> None:
    assert set(kinds(tmp_path, messages)) == {kind}


def test_text_in_many_languages_is_not_taken_for_mojibake(tmp_path: Path) -> None:
    for text in (
        "Perché no? È già lì.",
        "Größe, naïve, Ærø — “so”",
        "今日は雨です",
        "Привет, мир",
        "café ☕ 👍🏽",
        "Ã",
    ):
        assert kinds(tmp_path, [USER, {"role": "assistant", "content": text}]) == [], text


def test_every_error_is_told_with_file_line_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [USER, ANSWER]}) + "\n\n" + json.dumps({"messages": [USER]}) + "\n{\n")
    problems = [one for one in read_file(file, Toolbox(None)) if isinstance(one, Problem)]
    assert [str(p).removeprefix(f"{file}:") for p in problems] == [
        f"3: row: the last message must be the assistant's; {KINDS['no_answer'].remedy}",
        f"4:2: not JSON: Expecting property name enclosed in double quotes; {KINDS['broken_json'].remedy}",
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("IT60 X054 2811 1010 0000 0123 456", "a bank account (IBAN)"),
        ("4111 1111 1111 1111", "a card number"),
        ("+62 812 3456 7890", "a phone number"),
        ("RSSMRA85T10A562S", "an Italian tax code"),
        ("3171234508900001", "an Indonesian identity number"),
        ("postgres://admin:hunter22@db/x", "a password in a URL"),
        ("ghp_" + "a1B2" * 9, "a GitHub token"),
        ("sk-proj-" + "a1B2" * 6, "an API key"),
    ],
)
def test_personal_data_is_known_by_its_form_and_masked(text: str, kind: str) -> None:
    (found,) = personal_data.find_sensitive(f"It is {text}, he said.")
    assert found.kind == kind
    masked = personal_data.mask_sensitive(f"It is {text}, he said.")
    assert masked.startswith(f"It is [{kind.split(' ', 1)[1]}]") and masked.endswith(", he said.")
    assert personal_data.find_sensitive(masked) == []


@pytest.mark.parametrize(
    "text",
    [
        "IT61 X054 2811 1010 0000 0123 456",  # check digits are wrong
        "4111 1111 1111 1112",
        "write to info@example.com",
        "order 1234567890123456",
        "version 2024-11-21 10:30:00",
        "task-sk-management is a long hyphenated word",
        "pi is 3.14159265358979",
    ],
)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    assert personal_data.find_sensitive(text) == []


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"]), max_size=80))
def test_mending_twice_changes_nothing_more(text: str) -> None:
    once = repair_text(text)
    assert repair_text(once) == once


def test_near_duplicates_are_found_and_others_are_not() -> None:
    index = DuplicateIndex()
    words = [f"word{i}" for i in range(60)]
    assert index.add(" ".join(words)) is None
    assert index.add(" ".join(words).upper() + "!") == 0
    index.add(" ".join([*words[:30], "other", *words[31:]]))
    index.add(" ".join(reversed(words)))
    index.add(" ".join(words[:30]))
    assert list(index.near()) == [(2, 0)]


def test_languages_are_told_apart_and_short_text_is_not_guessed() -> None:
    texts = {
        "en": "The office opens at nine in the morning and closes when the last guest has left the building.",
        "it": "L'ufficio apre alle nove del mattino e chiude quando l'ultimo ospite ha lasciato il palazzo.",
        "id": "Kantor buka pukul sembilan pagi dan tutup ketika tamu terakhir sudah meninggalkan gedung ini.",
    }
    assert {language: detect_language(text) for language, text in texts.items()} == {k: k for k in texts}
    assert detect_language("ok, no, si") is None


def examined(tmp_path: Path, rows: list[Any], **settings: Any) -> Examination:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    examination = Examination(Data(sources=(Source(path=file),), **settings), None, None)
    for _ in examination.rows():
        pass
    examination.finish()
    return examination


def pair(question: str, answer: str, **rest: Any) -> dict[str, Any]:
    return {"prompt": question, "completion": answer, **rest}


def test_rows_that_stand_in_the_test_set_are_found_exactly_and_nearly(tmp_path: Path) -> None:
    words = " ".join(f"word{i}" for i in range(50))
    held_out = tmp_path / "test.jsonl"
    held_out.write_text(json.dumps(pair("say it", words)) + "\n")
    found = examined(
        tmp_path,
        [pair("say it", words), pair("say it", words.replace("word7 ", "")), pair("say it", "something else")],
        held_out=(held_out,),
    ).findings
    assert found.counts["in_test"] == 1 and found.counts["near_test"] == 1
    assert found.examples["in_test"][0].line == 1 and found.examples["near_test"][0].line == 2


def test_imbalance_few_rows_of_a_style_and_a_wrong_language_are_told(tmp_path: Path) -> None:
    italian = "Il mare era calmo quella sera, e nessuno parlava volentieri di quello che era successo al porto."
    rows = [pair(f"write {i}", f"{italian} {i} {'x' * i}", style="plain") for i in range(60)]
    rows += [pair("write", "The sea was calm and nobody liked to talk about what had happened there.", style="epic")]
    found = examined(tmp_path, rows, languages=("it",)).findings
    assert [p.text for p in found.examples["imbalance"]] == ["style 'epic' has 1 rows, the median is 30.5"]
    assert [p.text for p in found.examples["few_of_a_style"]] == ["style 'epic' has only 1 passages, 30 are advised"]
    assert [p.line for p in found.examples["wrong_language"]] == [61]


@pytest.mark.parametrize(
    ("pattern", "some"),
    [
        (text_checks.BAD_CHARACTERS, text_checks._BAD_BYTES),
        (re.compile(r"\d"), personal_data._DIGITS),
        (re.compile("[\x80-¿€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ√├┬]"), text_checks._MOJIBAKE_BYTES),
    ],
)
def test_what_is_not_looked_at_by_pattern_holds_nothing_it_would_find(pattern: re.Pattern[str], some: bytes) -> None:
    assert not [
        one for one in CHARACTERS if pattern.search(one) and not personal_data.contains_any_byte(f"a{one}b", some)
    ]


def test_words_are_those_of_a_pattern() -> None:
    texts = [f"a{one}B {one} c.{one}" for one in CHARACTERS]
    wanted = ([word.encode("utf-8", "surrogatepass") for word in re.findall(r"\w+", text.lower())] for text in texts)
    assert all(duplicates._split_words(text) == words for text, words in zip(texts, wanted, strict=True))
