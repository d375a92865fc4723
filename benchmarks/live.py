"""`make live`: two promoted candidates meet 3,000 requests with ratings; traffic moves by itself, as simulated before.

Three versions of a tiny Llama are trained once (in `.live`): `first` is the baseline of both, `second` was trained
longer, `worse` was stopped early. Callers ask what the test grammar asks, as users who come back, and rate each answer
by whether it calls the right tool. What the simulation says of each is computed before the first request, from the
versions' own evaluations.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
import aiohttp
import numpy as np
import yaml

from benchmarks.common.rounds import ROOT, print_result
from benchmarks.common.servers import free_port, gateway_command, serving
from benchmarks.traffic import BACK, DONE, simulate, zipf_users
from tuneline.configs.catalogue import wire_name
from tuneline.configs.evaluation import Suite
from tuneline.configs.gateway import STEPS, Policy
from tuneline.core import paths
from tuneline.core.artifacts import open_artifact
from tuneline.endpoints.request_log.follower import LogFollower
from tuneline.endpoints.traffic.records import read_record
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.prepare.prepared_run import load_tools

HOME = ROOT / ".live"
RECIPE = ROOT / "configs/recipes/demo.yaml"
STEPS_OF = {"first": 400, "second": 800, "worse": 120}
"""Version → its training steps of eight rows."""
SUITE = "unseen_phrasings"
REQUESTS, AT_ONCE, USERS = 3000, 8, 2000
SHARE_OF_GOOD = 0.55
"""Share of requests that ask for the good candidate's name; the others ask for the bad one's."""
POLICY = {"margin": 0.1, "first_margin": 0.2, "least_units": 20, "outcomes": ["answered", "valid", "feedback"]}
CANDIDATE_OF = {"router": "second", "router-next": "worse"}
ROLLOUTS = 500
TAIL = 0.025
"""Share of simulated rollouts left out at either end."""


@dataclass(frozen=True)
class Question:
    """A request and the tool that answers it."""

    text: str
    tool: str


@dataclass(frozen=True)
class Forecast:
    """What the simulation says of a candidate: how it ends, and the range of requests until then, from 5 % on."""

    ends: str
    share: float
    fewest: float
    median: float
    most: float


def main() -> None:
    os.environ |= {"TUNELINE_RUNS": str(HOME / "runs"), "TUNELINE_MODELS": str(HOME / "models")}
    rates = {version: train(version, steps) for version, steps in STEPS_OF.items()}
    print("right tool, offline: " + ", ".join(f"{version} {rate:.1%}" for version, rate in rates.items()))
    forecasts = {model: forecast(rates["first"], rates[CANDIDATE_OF[model]]) for model in CANDIDATE_OF}
    for model, said in forecasts.items():
        print(f"the simulation: {model} ends at {said.ends} in {said.share:.0%} of rollouts, {said.fewest:,.0f} to "
              f"{said.most:,.0f} requests after its step to 5 %, median {said.median:,.0f}")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch)
        os.environ |= {"TUNELINE_POLICY": str(state / "policy"), "TUNELINE_LOGS": str(state / "logs")}
        run_stream(state)
        results = {model: check(model, said) for model, said in forecasts.items()}
    good = results["router"]
    met = all(result["as_said"] for result in results.values())
    print_result("live", good["requests"] / forecasts["router"].median, 2.0, met=met, **results)


def train(version: str, steps: int) -> float:
    """Train and evaluate a version, unless it was; return its share of right tools."""
    recipe = HOME / f"{version}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    suites = [{"name": SUITE, "grammar": "data/requests/test.yaml", "rows": 256}]
    recipe.write_text(yaml.safe_dump({
        "extends": str(RECIPE), "train": {"max_steps": steps}, "evaluate": {"suites": suites},
    }))  # fmt: skip
    tuneline("run", str(recipe), "--run", version)
    scoreboard = open_artifact(paths.run_folder(version) / "evaluate").metrics["scoreboard"]
    [row] = [row for row in scoreboard if row["suite"] == SUITE and row["target"] == "tuned-Q4_K_M"]
    return float(row["name_accuracy"])


def forecast(baseline: float, candidate: float) -> Forecast:
    """Return what simulated rollouts of that difference do from 5 % on; what shadow shows is not rated."""
    effects = np.repeat([candidate - baseline], ROLLOUTS)
    ends = simulate(Policy(**POLICY), effects, REQUESTS, seed=11, rate=baseline, first_step=1)
    share = {"100 %": (ends.step == DONE).mean(), "the baseline": (ends.step == BACK).mean()}
    name = max(share, key=lambda end: share[end])
    requests = ends.requests[ends.step == (DONE if name == "100 %" else BACK)]
    return Forecast(name, float(share[name]), *(float(np.quantile(requests, q)) for q in (TAIL, 0.5, 1 - TAIL)))


def run_stream(state: Path) -> None:
    """Promote the versions, start the gateway, and send it every request with its rating."""
    for version in STEPS_OF:
        tuneline("promote", version, "--as", version, "--override", f"{STEPS_OF[version]} steps, to be compared live")
    models = {
        model: {"baseline": {"promoted": "first"}, "candidate": {"promoted": candidate}, "policy": POLICY}
        for model, candidate in CANDIDATE_OF.items()
    }
    settings = state / "gateway.yaml"
    settings.write_text(yaml.safe_dump({"models": models}))
    port = free_port()
    folders = {name: os.environ[name] for name in os.environ if name.startswith("TUNELINE_")}
    with ExitStack() as stack:
        stack.enter_context(serving(gateway_command(settings, port), state, port, folders))
        started = time.monotonic()
        asyncio.run(ask_all(f"http://127.0.0.1:{port}"))
        print(f"{REQUESTS:,} requests with their ratings in {time.monotonic() - started:.0f} s\n")
    print(tuneline("traffic", "ls", "--settings", str(settings)))
    print(tuneline("logs", "tail", "-n", "4"))


async def ask_all(url: str) -> None:
    """Send the stream, in an order that is the same every time."""
    rng, items = random.Random(1), make_items(Suite(name=SUITE, grammar=ROOT / "data/requests/test.yaml", rows=512))
    questions = [Question(item.text, wire_name(item.tool)) for item in items if item.tool]
    models = ["router" if rng.random() < SHARE_OF_GOOD else "router-next" for _ in range(REQUESTS)]
    users, numbers = zipf_users(USERS, REQUESTS, np.random.default_rng(1)), iter(range(REQUESTS))
    catalogue = load_tools(paths.run_folder("first") / "prepare")
    assert catalogue
    tools = catalogue.openai()
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        await wait_until_ready(session)

        async def ask() -> None:
            for number in numbers:
                question = questions[rng.randrange(len(questions))]
                await ask_one(session, models[number], f"user {users[number]}", question, tools)

        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))


async def wait_until_ready(session: aiohttp.ClientSession, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while True:
        async with session.get("/ready") as response:
            if response.status == 200:
                return
        assert time.monotonic() < deadline, "the engines do not start"
        await asyncio.sleep(0.2)


async def ask_one(
    session: aiohttp.ClientSession, model: str, user: str, question: Question, tools: list[dict[str, Any]]
) -> None:
    """Ask, and rate the answer: 1 if it calls the right tool, else 0."""
    messages = [{"role": "user", "content": question.text}]
    body = {"model": model, "messages": messages, "tools": tools, "user": user, "temperature": 0, "max_tokens": 96}
    async with session.post("/v1/chat/completions", json=body) as response:
        answer, request_id = await response.json(), response.headers["x-request-id"]
    assert response.status == 200, answer
    calls = answer["choices"][0]["message"].get("tool_calls") or []
    right = len(calls) == 1 and calls[0]["function"]["name"] == question.tool
    async with session.post("/v1/feedback", json={"id": request_id, "value": float(right)}) as response:
        assert response.status == 200, await response.text()


def check(model: str, said: Forecast) -> dict[str, Any]:
    """Print a candidate's moves; return how it ended, after how many requests, and whether that is as was said."""
    record = read_record(model)
    moves = record.tasks["other"] if record else ()
    requests = count_requests(model)
    print(f"\n{model}, candidate {CANDIDATE_OF[model]}:")
    for move in moves:
        print(f"  to {move.step:<8} after {requests[move.number - 1]:,} requests, by {move.by}: {move.why}")
    steps = [move.step for move in moves]
    last = {"100": "100 %", "baseline": "the baseline"}.get(steps[-1] if steps else "", "neither")
    took = sum(requests[move.number] for move in moves[:-1])
    in_time = steps == ["baseline"] or said.fewest <= took <= said.most  # what shadow shows can be enough
    left_five = any(STEPS.index(step) > STEPS.index("5") for step in steps)
    as_said = last == said.ends and in_time and (model == "router" or not left_five)
    print(f"  {took:,} requests from its step to 5 %; the simulation said {said.fewest:,.0f} to {said.most:,.0f}")
    return {"steps": steps, "requests": took, "said": [said.fewest, said.median, said.most], "as_said": as_said}


def count_requests(model: str) -> Mapping[int, int]:
    """Return number of a move → callers' requests since it, until the next one."""
    records = LogFollower(paths.logs()).poll()
    return Counter(
        int(record.get("move", 0))
        for record in records
        if record.get("model") == model and record["kind"] == "request" and not record.get("shadow_of")
    )


def tuneline(*words: str) -> str:
    """Run the command, and return what it prints."""
    command = [sys.executable, "-m", "tuneline", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
