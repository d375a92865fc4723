"""Where a request may go: its model's targets in the order in which they are asked, and why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from tuneline.configs.gateway import OTHER, Gateway, Route, Target
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.traffic.assignment import Assignment, assign

Arm = Literal["baseline", "candidate", "fallback"]
UNIT_HEADER, TASK_HEADER = "x-tuneline-unit", "x-tuneline-task"
CONVERSATION = "gen_ai.conversation.id"
"""A conversation's name in OpenTelemetry's conventions; here a key of the request's `metadata`."""
MAX_UNIT = 256
ALONE_FIRST_TOKEN_S = 120.0
"""Longest wait for the first token of a promoted name that `models` has no entry for: no other target can be asked. A
long prompt on two cores takes a minute, and a container that starts because the others are busy may take longer."""


@dataclass(frozen=True)
class Choice:
    """One target of a plan."""

    arm: Arm
    target: Target


@dataclass(frozen=True)
class Plan:
    """How a request is answered."""

    model: str
    task: str
    unit: str
    assignment: Assignment
    choices: list[Choice] = field(default_factory=list)
    """In the order in which they are asked; the first is of the assigned arm."""

    @property
    def shadow(self) -> Target | None:
        """Return the candidate that is asked too, after the caller has its answer, or None."""
        return self.assignment.shadow


def make_plan(
    settings: Gateway,
    api: str,
    body: dict[str, Any],
    headers: dict[str, str],
    unit: str,
    assignments: "Assigner",
    recognize: Callable[[str], str],
) -> Plan:
    """Return the plan of a request; `unit` is its unit if neither headers nor body name one.

    `recognize` returns the task of a text, where none is named.

    Raises:
        ApiError: 404, nothing answers to that name, or not on this path.
    """
    model = body["model"]
    route = settings.models.get(model) or Route(baseline=Target(promoted=model, first_token_s=ALONE_FIRST_TOKEN_S))
    task, unit = find_task(settings, body, headers, recognize), find_unit(body, headers) or unit
    assignment = assignments(model, task, unit, route)
    choices = [choice for choice in _order(route, assignment.arm) if api in choice.target.apis]
    if not choices:
        raise ApiError(404, f"{model}: does not answer at /v1/{api}", code="model_not_found", param="model")
    return Plan(model, task, unit, assignment, choices)


Assigner = Callable[[str, str, str, Route], Assignment]


def assign_by(steps: Callable[[str, str], Any]) -> Assigner:
    """Return an assigner that reads the step of a (model, task) by `steps`."""

    def assigner(model: str, task: str, unit: str, route: Route) -> Assignment:
        return assign(route, steps(model, task) if route.candidate else None, unit)

    return assigner


def find_task(settings: Gateway, body: dict[str, Any], headers: dict[str, str], recognize: Callable[[str], str]) -> str:
    """Return the task that a request names, or else the one that its words are of; or `other`."""
    metadata = body.get("metadata") or {}
    task = headers.get(TASK_HEADER) or metadata.get("task")
    if task is None:
        return recognize(last_user_text(body))
    return task if isinstance(task, str) and task in settings.tasks else OTHER


def last_user_text(body: dict[str, Any]) -> str:
    """Return what a caller asks: the last user message, or the prompt; empty if it is not text."""
    messages = body.get("messages") or [{"role": "user", "content": body.get("input") or body.get("prompt")}]
    content = next((m.get("content") for m in reversed(messages) if m.get("role") == "user"), "")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def find_unit(body: dict[str, Any], headers: dict[str, str]) -> str:
    """Return the unit that a request names: its conversation, or its user; or an empty text."""
    metadata = body.get("metadata") or {}
    names = (headers.get(UNIT_HEADER), metadata.get(CONVERSATION), body.get("user"))
    return next((name[:MAX_UNIT] for name in names if isinstance(name, str) and name), "")


def _order(route: Route, arm: str) -> list[Choice]:
    """Return the targets to ask: the assigned one, then the baseline, then the fallback."""
    choices = [Choice("baseline", route.baseline)]
    if arm == "candidate" and route.candidate:
        choices.insert(0, Choice("candidate", route.candidate))
    today = datetime.now(UTC).date()
    if route.fallback and (route.fallback_until is None or today <= route.fallback_until):
        choices.append(Choice("fallback", route.fallback))
    return choices
