"""The suites of a recipe as inspect-ai tasks: its model providers, logs and viewer, our items and marks.

    pip install 'tuneline[inspect]'
    inspect eval stages/evaluate/clients/inspect_tasks.py@suite -T recipe=configs/recipes/demo.yaml \
        -T name=unseen_phrasings --model openai-api/tuneline/demo

An item's turns are one sample: a sample is right as far as its turns are. Nothing is executed: what is judged is the
call. `run=NAME` is needed by suites that ask about a run's own styles, or let the preselector choose.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolInfo, ToolParams

from tuneline.configs.catalogue import Catalogue, dotted_name, load_catalogue, wire_name
from tuneline.configs.evaluation import Suite
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import paths
from tuneline.core.errors import BadRequest
from tuneline.core.paths import find
from tuneline.stages.evaluate.clients.asking import Reply, judge, request
from tuneline.stages.evaluate.suites.items import Item, make_items
from tuneline.stages.evaluate.suites.run_context import Known, of_run

ANSWERS = "answers"
"""Where a sample's answers lie, in its metadata: a line each, as `evaluate` keeps them."""


@task
def suite(recipe: str, name: str, run: str | None = None) -> Task:
    """One suite of a recipe."""
    read = load_recipe(Path(recipe))
    found = {one.name: one for one in read.evaluate.suites}
    if name not in found:
        raise BadRequest(f"-T name={name}: the suites of {recipe} are {', '.join(found)}")
    tools = load_catalogue(find(read.data.tools)) if read.data.tools else None
    known = of_run(read, paths.run_folder(run)) if run else Known(tools, read.serve.context)
    return task_of(found[name], known, read.data.system)


def task_of(asked: Suite, known: Known, system: str = "") -> Task:
    """A suite as a task; each conversation is a sample."""
    talks: dict[int, list[Item]] = {}
    for item in make_items(asked, known):
        talks.setdefault(item.talk, []).append(item)
    samples = [
        Sample(id=turns[0].id, input=turns[0].text, target="", metadata={"turns": [item.id for item in turns]})
        for turns in talks.values()
    ]
    by_id = {turns[0].id: turns for turns in talks.values()}
    return Task(
        name=asked.name,
        dataset=MemoryDataset(samples),
        solver=_asked(by_id, known, system),
        scorer=_marked(),
        config=GenerateConfig(temperature=0, max_tokens=asked.max_tokens),
    )


@solver
def _asked(talks: dict[str, list[Item]], known: Known, system: str) -> Solver:
    everything = _tools(known.catalogue, None)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        messages: list[ChatMessage] = [ChatMessageSystem(content=system)] if system else []
        answers = []
        for item in talks[str(state.sample_id)]:
            messages.append(ChatMessageUser(content=request(item)["content"]))
            shown = everything if item.shown is None else _tools(known.catalogue, item.shown)
            output = await get_model().generate(messages, tools=shown if item.offered else [])
            messages.append(output.message)
            answers.append(asdict(judge(item, _reply(output), known)))
        state.messages, state.output = messages, output
        state.metadata[ANSWERS] = answers
        return state

    return solve


@scorer(metrics={"name_correct": [mean(), stderr()], "exact": [mean(), stderr()]})
def _marked() -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        answers: list[dict[str, Any]] = state.metadata[ANSWERS]
        value = {key: sum(a[key] for a in answers) / len(answers) for key in ("name_correct", "exact")}
        wrong = "; ".join(filter(None, (answer["fault"] or answer["error"] for answer in answers)))
        return Score(value=value, answer=state.output.completion, explanation=wrong or None)

    return score


def _tools(catalogue: Catalogue | None, names: Sequence[str] | None) -> list[ToolInfo]:
    chosen = [] if catalogue is None else catalogue.names if names is None else names
    return [
        ToolInfo(
            name=wire_name(name),
            description=catalogue.tools[name].description,
            parameters=ToolParams.model_validate(catalogue.tools[name].parameters),
        )
        for name in chosen
        if catalogue
    ]


def _reply(output: ModelOutput) -> Reply:
    calls = [
        {"name": dotted_name(call.function), "arguments": None if call.parse_error else call.arguments}
        for call in output.message.tool_calls or ()
    ]
    usage = output.usage
    return Reply(
        calls=calls,
        text=output.completion,
        tokens=usage.output_tokens if usage else 0,
        prompt_tokens=usage.input_tokens if usage else 0,
        latency_s=output.time or 0.0,
        cut=output.stop_reason == "max_tokens",
    )
