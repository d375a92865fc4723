"""The suites of a recipe as inspect-ai tasks: its model providers, logs and viewer, with our items and grades.

    pip install 'tuneline[inspect]'
    inspect eval stages/evaluate/clients/inspect_tasks.py@suite -T recipe=configs/recipes/demo.yaml \
        -T name=unseen_phrasings --model openai-api/tuneline/demo

A conversation is one sample, whose score is the share of its turns that are right. Nothing is executed: the call itself
is graded. `run=NAME` is needed by suites that ask for a run's own styles or use its preselector.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    get_model,
    messages_from_openai,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolInfo, ToolParams

from tuneline.configs.catalogue import Catalogue, dotted_name, load_catalogue, wire_name
from tuneline.configs.evaluation import Suite
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import paths
from tuneline.core.errors import BadRequest
from tuneline.core.paths import resolve
from tuneline.engines.chat_messages import to_api_messages
from tuneline.stages.evaluate.answers import Reply
from tuneline.stages.evaluate.clients.messages import user_message
from tuneline.stages.evaluate.clients.suite_runner import conversations
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext, open_run_context
from tuneline.stages.evaluate.suites.suite_items import make_items

ANSWERS = "answers"
"""Key of a sample's metadata that has its graded answers, as `evaluate` writes them."""

SOLVER, SCORER = "_asked", "_marked"
"""Names in inspect-ai's logs."""


@task
def suite(recipe: str, name: str, run: str | None = None) -> Task:
    """One suite of a recipe."""
    loaded = load_recipe(Path(recipe))
    suites = {suite.name: suite for suite in loaded.evaluate.suites}
    if name not in suites:
        raise BadRequest(f"-T name={name}: the suites of {recipe} are {', '.join(suites)}")
    tools = load_catalogue(resolve(loaded.data.tools)) if loaded.data.tools else None
    run_context = open_run_context(loaded, paths.run_folder(run)) if run else RunContext(tools, loaded.serve.context)
    return make_task(suites[name], run_context, loaded.data.system)


def make_task(suite: Suite, run_context: RunContext, system: str = "") -> Task:
    """Return a suite as a task; each conversation is a sample."""
    by_id = {turns[0].id: turns for turns in conversations(make_items(suite, run_context))}
    samples = [
        Sample(id=turns[0].id, input=turns[0].text, target="", metadata={"turns": [item.id for item in turns]})
        for turns in by_id.values()
    ]
    return Task(
        name=suite.name,
        dataset=MemoryDataset(samples),
        solver=_conversation_solver(by_id, run_context, system),
        scorer=_grade_scorer(),
        config=GenerateConfig(temperature=0, max_tokens=suite.max_tokens),
    )


@solver(name=SOLVER)
def _conversation_solver(by_id: dict[str, list[Item]], run_context: RunContext, system: str) -> Solver:
    all_tools = _tool_infos(run_context.catalogue, None)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        messages: list[ChatMessage] = [ChatMessageSystem(content=system)] if system else []
        answers = []
        for item in by_id[str(state.sample_id)]:
            if item.messages:
                messages = await _logged_messages(item, messages)
            else:
                messages.append(ChatMessageUser(content=user_message(item)["content"]))
            names = None if item.shown_tools is None else [tool for tool in item.shown_tools if isinstance(tool, str)]
            tools = all_tools if names is None else _tool_infos(run_context.catalogue, names)
            output = await get_model().generate(messages, tools=tools if item.offers_tools else [])
            messages.append(output.message)
            answers.append(asdict(grade(item, _to_reply(output), run_context)))
        state.messages, state.output = messages, output
        state.metadata[ANSWERS] = answers
        return state

    return solve


@scorer(metrics={"name_correct": [mean(), stderr()], "exact": [mean(), stderr()]}, name=SCORER)
def _grade_scorer() -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        answers: list[dict[str, Any]] = state.metadata[ANSWERS]
        value = {key: sum(a[key] for a in answers) / len(answers) for key in ("name_correct", "exact")}
        wrong = "; ".join(filter(None, (answer["fault"] or answer["error"] for answer in answers)))
        return Score(value=value, answer=state.output.completion, explanation=wrong or None)

    return score


async def _logged_messages(item: Item, system: list[ChatMessage]) -> list[ChatMessage]:
    """Return the messages before the last turn of a logged chat, after `system` unless the chat has its own."""
    logged = await messages_from_openai(cast(Any, to_api_messages(item.messages)))
    return [*(() if isinstance(logged[0], ChatMessageSystem) else system), *logged]


def _tool_infos(catalogue: Catalogue | None, names: Sequence[str] | None) -> list[ToolInfo]:
    """Return the named tools of a catalogue, or all of them if `names` is None."""
    if catalogue is None:
        return []
    return [
        ToolInfo(
            name=wire_name(name),
            description=catalogue.tools[name].description,
            parameters=ToolParams.model_validate(catalogue.tools[name].parameters),
        )
        for name in (catalogue.names if names is None else names)
    ]


def _to_reply(output: ModelOutput) -> Reply:
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
