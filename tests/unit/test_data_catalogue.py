"""From a catalogue to examples: every tool, every kind, three languages, and tests that training never saw."""

import json
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.data import Data, Source, Synthesis
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.suites.suite_requests import suite_requests
from tuneline.stages.prepare.checks.row_checks import check_turns, normalize_calls
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.llm_writer import request_log
from tuneline.stages.prepare.synthesis.synthetic_rows import CYCLE, make_synthesizer, most_similar_tools

BUSINESS = ROOT / "configs/tools/business.yaml"
GROUPS = {"Google Workspace": 15, "Communication": 12, "Memory and retrieval": 18, "Business": 25, "Analytics": 10}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(BUSINESS)


@pytest.fixture(scope="module")
def rows(catalogue: Catalogue) -> list[Row]:
    return made(catalogue, Source(per_tool=50))


def made(catalogue: Catalogue, source: Source, **settings: Any) -> list[Row]:
    data = Data(sources=(source,), tools=BUSINESS, **settings)
    return list(make_synthesizer(data, catalogue)(source, 0))


def test_the_catalogue_has_104_tools_in_the_groups_a_business_needs(catalogue: Catalogue) -> None:
    counts: Counter[str] = Counter()
    group = ""
    for line in BUSINESS.read_text().splitlines():
        group = line.removeprefix("  # ").split(":")[0] if line.startswith("  # ") else group
        counts[group] += line.startswith("  ") and line.endswith(":") and line[2].isalpha() and line[:3] != "   "
    assert len(catalogue.names) == 104 and {name: counts[name] for name in GROUPS} == GROUPS
    assert set(load_catalogue(ROOT / "configs/tools/handlers.yaml").names) < set(catalogue.names)


def test_no_phrase_reaches_a_model(catalogue: Catalogue) -> None:
    assert "phrases" not in json.dumps(catalogue.openai()) + catalogue.model_dump_json()


def test_there_are_50_examples_a_tool_all_right_and_all_different(catalogue: Catalogue, rows: list[Row]) -> None:
    assert len(rows) == 5200 and len({json.dumps(row.chat()[0]) for row in rows}) == 5200
    toolbox = Toolbox(catalogue)
    for row in rows:
        chat = row.chat()
        assert not [*check_turns(chat), *normalize_calls(chat, toolbox)], row
        assert set(row.called) <= set(row.tools)
    called = Counter(name for row in rows for name in set(row.called))
    assert set(called) == set(catalogue.names) and min(called.values()) >= 30


def test_all_kinds_are_there(rows: list[Row]) -> None:
    kinds: Counter[str] = Counter()
    for row in rows:
        roles = [m.role for m in row.messages]
        calls = [len(m.tool_calls or ()) for m in row.messages]
        kinds["parallel"] += max(calls) == 2
        kinds["result"] += "tool" in roles and roles[-1] == "assistant"
        kinds["question"] += roles[:2] == ["user", "assistant"] and not calls[1] and sum(calls) > 0
        kinds["none"] += not sum(calls)
        kinds["whole"] += len(row.tools) == 104
    share = {kind: count / len(rows) for kind, count in kinds.items()}
    assert 0.09 < share["parallel"] < 0.11 and 0.18 < share["result"] < 0.22
    assert share["question"] > 0.03 and share["none"] > 0.1 and 0.15 < share["whole"] < 0.22
    others = [len(row.tools) - len(set(row.called)) for row in rows if row.called and len(row.tools) < 104]
    assert min(others) >= 7 and max(others) <= 24
    assert Counter(CYCLE)["single"] == 3


def test_an_argument_stands_in_what_was_asked(rows: list[Row]) -> None:
    for row in rows:
        said = " ".join(m.content or "" for m in row.messages if m.role == "user")
        for message in row.messages:
            for call in message.tool_calls or ():
                assert all(str(value) in said for value in call.function.arguments.values()), row


def test_the_same_seed_gives_the_same_rows_and_another_others(catalogue: Catalogue, rows: list[Row]) -> None:
    few = made(catalogue, Source(per_tool=2))
    assert few == rows[: len(few)] != made(catalogue, Source(per_tool=2), seed=1)


def test_no_test_phrasing_is_in_training(catalogue: Catalogue, rows: list[Row]) -> None:
    trained = {" ".join((row.messages[0].content or "").lower().split()[:4]) for row in rows}
    for language in ("en", "it", "id"):
        asked = suite_requests(ROOT / f"data/synthesis/ask/{language}.yaml", 312, seed=1)
        assert {request.tool for request in asked} == set(catalogue.names)
        frames = {c for tool in catalogue.tools.values() for c in tool.phrases[language].say}
        assert not frames & {c for tool in catalogue.tools.values() for c in tool.phrases[language].ask}
        seen = sum(" ".join(request.text.lower().split()[:4]) in trained for request in asked)
        assert seen / len(asked) < 0.05, language


def test_near_misses_show_the_tools_most_like_the_right_one(catalogue: Catalogue) -> None:
    assert set(most_similar_tools(catalogue, "docs.create")[:4]) & {"docs.append", "docs.read", "docs.share"}
    assert set(most_similar_tools(catalogue, "kbli.lookup")[:4]) & {"kbli.describe", "kbli.risk", "kbli.ownership"}


def test_a_catalogue_without_phrases_is_enough() -> None:
    parameters = {"type": "object", "properties": {"level": {"type": "integer"}, "mode": {"enum": ["soft", "hard"]}}}
    tool = {"description": "Dim the lamp.", "parameters": parameters | {"required": ["level"]}}
    bare = Catalogue.model_validate({"tools": {"lamp.dim": tool, "lamp.off": {**tool, "description": "Turn it off."}}})
    found = made(bare, Source(per_tool=20, languages=("en",)), whole_catalogue=0)
    calls = [c.function for row in found for m in row.messages for c in m.tool_calls or ()]
    assert len(found) == 40 and all(isinstance(call.arguments["level"], int) for call in calls)
    assert {call.arguments["mode"] for call in calls if "mode" in call.arguments} == {"soft", "hard"}
    assert any("dim the lamp" in (row.messages[0].content or "").lower() for row in found)


def test_examples_without_a_catalogue_are_refused() -> None:
    source = Source(per_tool=1)
    with pytest.raises(BadRecipe, match="needs a catalogue"):
        list(make_synthesizer(Data(sources=(source,)), None)(source, 0))


@pytest.fixture
def server() -> Any:
    """A provider that answers with one example that fits, one that does not, and one whose value is not in its text."""
    asked: list[dict[str, Any]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            number = len(asked)
            told = [
                {"text": f"dim it to {number}, soft", "arguments": {"level": number, "mode": "soft"}},
                {"text": "dim it", "arguments": {"level": "much"}},
                {"text": "dim it to 3", "arguments": {"level": 3, "mode": "hard"}},
            ]
            answer = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": f"Here: {json.dumps(told)}"},
                    }
                ],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000},
            }
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()


def test_a_hired_model_keeps_its_budget_its_requests_and_what_fits(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path))
    url, asked = server
    parameters = {"type": "object", "properties": {"level": {"type": "integer"}, "mode": {"enum": ["soft", "hard"]}}}
    bare = Catalogue.model_validate({"tools": {"lamp.dim": {"description": "Dim.", "parameters": parameters}}})
    hire = Synthesis(
        provider=url, model="m", budget_usd=0.01, usd_per_million_input=1, usd_per_million_output=1
    )  # 0.002 a request, at most 0.0018 more than what is known before
    source = Source(per_tool=1000, languages=("en",), synthesize=hire)
    found = made(bare, source)
    kept = [json.loads(line) for line in request_log(source, bare).read_text().splitlines()]
    assert [row.messages[0].content for row in found] == [f"dim it to {n}, soft" for n in range(1, len(asked) + 1)]
    assert len(kept) == len(asked) == 5 and sum(one["cost_usd"] for one in kept) == pytest.approx(0.01)
    assert made(bare, source) == found and len(asked) == 5  # nothing is asked, or paid, twice
