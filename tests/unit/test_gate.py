"""What passes the gate, what does not, and which cheats it sees through."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import make_run
from tuneline.configs.evaluation import Evaluate, Gate, Suite
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import GateFailed
from tuneline.stages.evaluate.answers import NO_TOOL, Answer, Reply
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.verdicts import gate
from tuneline.stages.evaluate.verdicts.suite_demands import Evidence
from tuneline.stages.prepare.checks.overlap import count_seen_in_training, write_phrasings
from tuneline.stages.run_artifacts import open_stage

TOOLS = ("email.send", "docs.create", "rag.search", "whatsapp.send")
USUAL = Gate()


def items(n: int, share_without: float = 0.2, suite: str = "unseen") -> list[Item]:
    """Requests for the tools in turn, and some that none fits, each in a frame of its own."""
    without = int(n * share_without)
    wanted = [TOOLS[i % len(TOOLS)] for i in range(n - without)] + [None] * without
    return [
        Item(f"{suite}-{i:04d}", f"please do thing {i}", tool, {"to": str(i)} if tool else {}, f"please do thing {i}")
        for i, tool in enumerate(wanted)
    ]


def right(item: Item) -> Reply:
    return Reply([{"name": item.tool, "arguments": item.arguments}]) if item.tool else Reply(text="I would rather not.")


def answers(asked: list[Item], model: Callable[[Item], Reply]) -> list[Answer]:
    return [grade(item, model(item)) for item in asked]


def some_wrong(wrong: int) -> Callable[[Item], Reply]:
    """Right but for the first so many."""
    return lambda item: Reply(text="hm") if int(item.id[-4:]) < wrong else right(item)


def judged(
    model: Callable[[Item], Reply],
    n: int = 600,
    base: Callable[[Item], Reply] = lambda item: Reply(text="hm"),
    floor: float | None = 0.99,
    demands: Gate | None = USUAL,
    **known: Any,
) -> dict[str, Any]:
    asked = items(n)
    found = {("unseen", "base"): answers(asked, base), ("unseen", "tuned"): answers(asked, model)}
    suite = Suite(name="unseen", grammar=Path("g.yaml"), rows=n, floor=floor)
    evidence = Evidence(found, "tuned", "base", **({"catalogue": TOOLS} | known))
    return gate.decide_gate(Evaluate(suites=(suite,), gate=demands), evidence)[0]


def test_a_good_model_passes_and_every_demand_is_told() -> None:
    found = judged(right)
    assert found["outcome"] == "pass" and found["unmet"] == [] and found["demands"] == len(found["reasons"]) == 5


@pytest.mark.parametrize(
    ("wrong", "n", "outcome"),
    [(1, 600, "pass"), (4, 600, "insufficient evidence"), (0, 200, "insufficient evidence"), (12, 600, "fail")],
)
def test_the_floor_wants_the_exact_lower_bound(wrong: int, n: int, outcome: str) -> None:
    found = judged(some_wrong(wrong), n, demands=None)
    assert found["outcome"] == outcome
    if outcome == "insufficient evidence":
        assert "more needed" in found["unmet"][0]


def test_items_of_one_frame_are_not_as_many_items() -> None:
    asked = [Item(f"u-{i:04d}", f"{i}", "email.send", {}, f"frame {i // 50}") for i in range(600)]
    suite = Suite(name="u", grammar=Path("g.yaml"), rows=600, floor=0.9)
    found = {("u", "tuned"): answers(asked, some_wrong(50)), ("u", "base"): answers(asked, right)}
    told = gate.decide_gate(Evaluate(suites=(suite,)), Evidence(found, "tuned", "base"))[0]
    assert told["outcome"] == "insufficient evidence"  # 91.7 % of 600 would reach 89.6 %, of twelve frames 66 %
    assert "lower bound 6" in told["unmet"][0]
    as_items = suite.model_copy(update={"independent": "items", "floor": 0.89})
    told = gate.decide_gate(Evaluate(suites=(as_items,)), Evidence(found, "tuned", "base"))[0]
    assert told["outcome"] == "pass" and "lower bound 89.6%, over items" in told["reasons"][0]


def test_worse_than_the_baseline_on_a_task_fails_and_too_few_items_is_no_proof() -> None:
    assert "worse" in judged(some_wrong(40), base=right, floor=None)["unmet"][0]
    few = judged(some_wrong(1), n=40, base=right, floor=None)
    assert few["outcome"] == "insufficient evidence" and "more needed" in few["unmet"][0]
    assert judged(right, base=right)["outcome"] == "pass"


@pytest.mark.parametrize(
    ("demands", "known", "outcome", "told"),
    [
        (Gate(validation_loss=0.4), {"validation_loss": 0.39}, "pass", ""),
        (
            Gate(validation_loss=0.4),
            {"validation_loss": 0.41},
            "fail",
            "validation loss, nats per token in the loss: 0.410",
        ),
        (
            Gate(validation_loss=0.4),
            {},
            "insufficient evidence",
            "validation loss, nats per token in the loss: not measured",
        ),
        (Gate(perplexity=3.5), {"validation_loss": 0.1, "perplexity": 3.6}, "fail", "perplexity, all tokens"),
        (
            Gate(),
            {"catalogue": (*TOOLS, "sheets.read")},
            "insufficient evidence",
            "not covered by any suite: sheets.read",
        ),
    ],
)
def test_other_demands(demands: Gate, known: dict[str, Any], outcome: str, told: str) -> None:
    found = judged(right, demands=demands, **known)
    assert found["outcome"] == outcome and any(line.startswith(told) for line in found["unmet"] or [""])


def test_composite_is_the_mean_of_suites_not_of_items() -> None:
    sizes = {"large": 900, "small": 100}
    asked = {name: items(n, suite=name) for name, n in sizes.items()}
    wrong = {"large": 0, "small": 25}
    found = {(s, t): answers(asked[s], some_wrong(wrong[s])) for s in sizes for t in ("tuned", "base")}
    suites = tuple(Suite(name=s, grammar=Path("g.yaml"), rows=n) for s, n in sizes.items())
    told = gate.decide_gate(Evaluate(suites=suites, gate=USUAL), Evidence(found, "tuned", "base"))[0]
    assert "composite 87.5 over 2 suites, 90 required" in told["unmet"]


def test_a_suite_that_can_prove_nothing_proves_nothing() -> None:
    asked = items(10)
    found = {("u", "tuned"): answers(asked, right), ("u", "base"): answers(asked, right)}
    suite = Suite(name="u", grammar=Path("g.yaml"), rows=10, proves=False)
    told = gate.decide_gate(Evaluate(suites=(suite,), gate=USUAL), Evidence(found, "tuned", "base", catalogue=()))[0]
    assert told["outcome"] == "insufficient evidence" and told["unmet"] == ["no suite that counts as evidence was run"]


def test_nothing_demanded_is_said() -> None:
    found = judged(lambda _: Reply(), floor=None, demands=None)
    assert found["passed"] and found["demands"] == 0 and "no suite has a floor" in found["reasons"][0]


def test_the_gate_is_heeded_from_a_finished_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))

    def made(name: str, decided: dict[str, Any]) -> Artifact:
        return open_stage(make_run(tmp_path / name, gate=decided), "evaluate")

    gate.require_pass(made("good", judged(right)))
    with pytest.raises(GateFailed, match="insufficient evidence:\nunseen: tuned is right") as refused:
        gate.require_pass(made("few", judged(right, 100)))
    assert refused.value.exit_code == 3


# Planted cheats. Each would look good by a number that is easy to look at.


def commonest(tool: str) -> Callable[[Item], Reply]:
    return lambda item: Reply([{"name": tool, "arguments": item.arguments}])


def lopsided(rare: int) -> list[Item]:
    """A suite in which one tool is asked for nearly always."""
    return [
        Item(f"unseen-{i:04d}", f"request {i}", "docs.create" if i < rare else "email.send", {}, f"request {i}")
        for i in range(5000)
    ]


def test_naming_the_commonest_tool_is_caught_even_where_it_nearly_always_fits() -> None:
    asked = lopsided(10)
    found = {("unseen", "tuned"): answers(asked, commonest("email.send"))}
    found["unseen", "base"] = answers(asked, lambda _: Reply())
    suite = Suite(name="unseen", grammar=Path("g.yaml"), rows=5000, floor=0.99)
    told = gate.decide_gate(Evaluate(suites=(suite,)), Evidence(found, "tuned", "base"))[0]
    assert "reaches the floor" in told["reasons"][0]
    assert told["outcome"] == "fail" and told["unmet"] == ["unseen: requested but never right: docs.create (0 of 10)"]


def test_always_calling_a_tool_is_caught() -> None:
    def calls(item: Item) -> Reply:
        return Reply([{"name": item.tool or "rag.search", "arguments": item.arguments}])

    found = judged(calls, floor=None)
    assert found["outcome"] == "fail" and any(f"{NO_TOOL} (0 of 120)" in line for line in found["unmet"])


def test_a_suite_without_requests_that_need_no_tool_cannot_tell() -> None:
    asked = items(600, share_without=0)
    found = {("unseen", "tuned"): answers(asked, right), ("unseen", "base"): answers(asked, lambda _: Reply())}
    suite = Suite(name="unseen", grammar=Path("g.yaml"), rows=600, floor=0.99)
    evidence = Evidence(found, "tuned", "base", catalogue=TOOLS)
    told = gate.decide_gate(Evaluate(suites=(suite,), gate=USUAL), evidence)[0]
    assert told["outcome"] == "insufficient evidence" and told["unmet"] == [f"not covered by any suite: {NO_TOOL}"]


def test_copying_the_prompt_is_no_answer_even_where_no_call_is_right() -> None:
    found = judged(lambda item: Reply(text=f"{item.text.capitalize()}!"), floor=None)
    assert found["outcome"] == "fail" and any(NO_TOOL in line for line in found["unmet"])
    copied = grade(items(5)[0], Reply([{"name": "email.send", "arguments": {"to": "please do thing 0"}}]))
    assert copied.name_correct and not copied.exact


@pytest.mark.parametrize("how", ["word for word", "same phrasing"])
def test_a_model_that_has_seen_the_test_is_caught(tmp_path: Path, how: str) -> None:
    asked = items(600)
    leaked = asked[:60]
    rows = [{"messages": [{"role": "user", "content": f"  {i.text.upper()}?"}]} for i in leaked]
    texts = rows if how == "word for word" else [{"messages": [{"role": "user", "content": "something else"}]}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    write_phrasings(tmp_path, [i.phrasing for i in leaked] if how == "same phrasing" else ["_"])
    known = count_seen_in_training(tmp_path, {"unseen": [(i.text, i.phrasing) for i in asked]})
    assert known == {"unseen": 60}
    found = judged(right, seen_items=known)
    assert found["outcome"] == "fail" and "60 of 600 items overlap with the training" in found["unmet"][0]
    assert judged(right, seen_items={"unseen": 0})["outcome"] == "pass"
