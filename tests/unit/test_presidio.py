"""Presidio is an extra: without it a line that says what to install; with it, what our own patterns do not know."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tuneline.core.errors import BadRequest
from tuneline.stages.prepare.checks import presidio
from tuneline.stages.prepare.checks.presidio import ENTITIES, Presidio
from tuneline.stages.prepare.validation import validate

CHAT = [
    {"role": "user", "content": "Buongiorno, mi chiamo Anna Bianchi e vorrei essere richiamata domani mattina."},
    {"role": "assistant", "content": "Certo, Anna Bianchi: la richiamo domani allo 06 6982 1234, va bene?"},
]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(f"data: {{sources: [{{path: {tmp_path / 'rows.jsonl'}}}], personal: presidio}}\n")
    return file


def test_without_it_the_command_that_installs_it_is_told_and_nothing_written(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presidio, "find_spec", lambda _: None)
    with pytest.raises(BadRequest, match=r"data.personal: presidio: .*`pip install 'tuneline\[personal\]'`"):
        validate([recipe], None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presidio, if it is installed, and a network that refuses."""
    pytest.importorskip("presidio_analyzer")

    def refuse(*_: Any) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def no_models(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacy.util.get_installed_models", lambda: [])


@pytest.fixture(scope="module")
def finder() -> Presidio:
    pytest.importorskip("presidio_analyzer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spacy.util.get_installed_models", lambda: [])
        made = Presidio()
        assert made.find("hello") == []
        return made


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("You can call me at (212) 555-0187 before noon, or write to me after that.", "a phone number"),
        ("Mi può chiamare domani mattina allo 06 6982 1234, oppure mi scriva una lettera.", "a phone number"),
        ("Silakan hubungi saya besok pagi di nomor 0812-3456-7890, terima kasih banyak.", "a phone number"),
        ("The router of our office in town has the address 93.184.216.34 since last week.", "an IP address"),
        ("Please pay into 1BoatSLRHtKNngkdXEeobR76b53LETtpyT before the end of the month.", "a cryptocurrency address"),
        ("La nostra partita IVA è la 01114601006, la trova anche in fondo alla fattura.", "an Italian VAT number"),
    ],
)
def test_it_finds_and_masks_what_the_patterns_do_not(offline: None, finder: Presidio, text: str, kind: str) -> None:
    assert presidio.find_sensitive(text) == []
    (found,) = finder.find(text)
    assert (found.severity, found.kind) == ("personal_data", kind)
    masked = finder.mask(text)
    assert f"[{kind.split(' ', 1)[1]}]" in masked and text[found.start : found.end] not in masked
    assert finder.find(masked) == []


@pytest.mark.parametrize(
    "text",
    [
        "The price is 12,500,000 IDR, or 1 500 000 a month, since 12/03/2024; see www.example.com for more.",
        "Write to anna@acme.it or pay into IT60X0542811101000000123456, as we said yesterday.",  # the patterns' own
        "whatsapp__send",
    ],
)
def test_it_leaves_the_rest_alone(offline: None, finder: Presidio, text: str) -> None:
    assert finder.find(text) == []


def test_without_a_model_it_says_that_names_are_not_looked_for(no_models: None, recipe: Path, tmp_path: Path) -> None:
    problems = validate([recipe], None, tmp_path / "out", fix=True).verdict["problems"]
    assert [one["text"] for one in problems["personal_data"]["first"]] == ["the text holds a phone number: 06 6…"]
    (told,) = problems["names_not_found"]["first"]
    assert told["text"].startswith("no spaCy model for 'it' is installed")
    (row,) = map(json.loads, next((tmp_path / "out/cleaned").iterdir()).read_text().splitlines())
    assert row["messages"][1]["content"] == "Certo, Anna Bianchi: la richiamo domani allo [phone number], va bene?"


def test_with_a_model_it_finds_names(
    offline: None, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is a real spaCy pipeline, made here: none can be installed from PyPI."""
    import spacy

    model = spacy.blank("it")
    model.add_pipe("entity_ruler").add_patterns([{"label": "PER", "pattern": "Anna Bianchi"}])  # type: ignore[attr-defined]
    monkeypatch.setattr("spacy.util.get_installed_models", lambda: ["it_core_news_sm", "en_core_web_sm"])
    monkeypatch.setattr("spacy.load", lambda name: model if name == "it_core_news_sm" else spacy.blank("en"))
    problems = validate([recipe], None, tmp_path / "out", fix=True).verdict["problems"]
    assert {one["text"] for one in problems["personal_data"]["first"]} == {
        "the text holds a person's name: Anna…",
        "the text holds a phone number: 06 6…",
    }
    assert "names_not_found" not in problems
    assert "Bianchi" not in next((tmp_path / "out/cleaned").iterdir()).read_text()


def test_what_is_looked_for_is_what_presidio_knows(finder: Presidio) -> None:
    assert set(ENTITIES) <= set(finder._analyzer.get_supported_entities())
