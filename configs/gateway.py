"""The schema of `gateway.yaml`: which models the gateway answers for, who may move traffic, and its limits."""

import math
from datetime import date
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tuneline.configs.section import ProviderName, Section, explain_first
from tuneline.configs.yaml_loader import parse_yaml
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import NAME
from tuneline.core.user_files import MIB, read_text

FILE = Path(__file__).parent / "gateway.yaml"
MAX_BYTES = MIB
OTHER = "other"
"""The task of a request that names none, or one that the file has not."""
NEVER_FORWARDED = frozenset({"chat_template", "chat_template_kwargs.chat_template"})
"""A template is a program to the engine: no setting lets a caller send one."""
Api = Literal["chat/completions", "completions", "responses", "messages", "embeddings"]
Step = Literal["baseline", "shadow", "5", "25", "50", "100"]
STEPS: tuple[Step, ...] = ("baseline", "shadow", "5", "25", "50", "100")
Outcome = Literal["answered", "valid", "feedback", "judged"]


class Target(Section):
    """Where requests can go: a promoted name, a provider's model, or a model at any OpenAI-compatible address."""

    promoted: str | None = None
    """A name of `tuneline promote`."""
    provider: str | None = None
    """A provider by name: openai, groq, together, …"""
    url: ProviderName | None = None
    """Any OpenAI-compatible address, with `/v1`."""
    model: str | None = None
    """The model's name there; needed with `provider` and `url`."""
    key_variable: str | None = None
    """Environment variable that holds the key; a provider's usual one, if not given."""
    apis: tuple[Api, ...] = ("chat/completions", "completions")
    """Paths below `/v1/` that it has."""
    extra_fields: tuple[str, ...] = ()
    """Fields of a request beyond OpenAI's that it is sent, such as `top_k`."""
    control_tokens: tuple[str, ...] = ()
    """Texts that a server of your own makes control tokens of, such as `<|eot_id|>`: requests are sent without them. A
    promoted model's are known."""
    usage_in_streams: bool = True
    """Whether it understands `stream_options.include_usage`."""
    prompt_usd_per_million: float = Field(0, ge=0)
    """Price of a million prompt tokens."""
    completion_usd_per_million: float = Field(0, ge=0)
    """Price of a million completion tokens."""
    budget_usd_per_day: float | None = Field(None, gt=0)
    """Most that it may cost in a day (UTC); a target over its budget is passed over."""
    concurrency: int = Field(64, gt=0)
    """Requests that it is sent at a time."""
    connect_s: float = Field(5, gt=0)
    """Longest wait for a connection, and for a free place among `concurrency`."""
    first_token_s: float = Field(10, gt=0)
    """Longest wait for the first token of a stream; then the next target is asked."""
    stall_s: float = Field(20, gt=0)
    """Longest silence within a stream."""
    response_s: float = Field(300, gt=0)
    """Longest time for an answer that is not streamed."""
    retries: int = Field(2, ge=0, le=5)
    """Further tries after 429, 5xx and broken connections; never after silence: it may still be answering."""
    retry_after_s: float = Field(10, ge=0)
    """Longest Retry-After that is waited for; beyond it, the next target is asked."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if sum(value is not None for value in (self.promoted, self.provider, self.url)) != 1:
            raise ValueError("one of promoted, provider and url")
        if not self.promoted and not self.model:
            raise ValueError("model is missing: the model's name at that target")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: {self.url!r}: http:// or https://")
        if refused := NEVER_FORWARDED & set(self.extra_fields):
            raise ValueError(f"extra_fields: {', '.join(refused)}: a template is a program, and is never forwarded")
        return self

    @property
    def label(self) -> str:
        """Its name in logs and metrics."""
        return self.promoted or f"{self.provider or 'url'}:{self.model}"


class Policy(Section):
    """What moves a share of traffic from the baseline to the candidate, and what sends it back."""

    margin: float = Field(0.03, gt=0, lt=1)
    """Most that a share of good outcomes may be worse on the candidate and still count as no worse."""
    first_margin: float = Field(0.10, gt=0, lt=1)
    """The same for the steps to 5 and 25 %, where few meet the candidate; for 50 % the geometric mean of both."""
    back_if_worse_by: float = Field(0.0, ge=0, lt=1)
    """Traffic goes back as soon as the candidate is shown to be worse by more than this."""
    error_rate: float = Field(0.05, gt=0, lt=1)
    """Traffic goes back as soon as the candidate is shown to fail more often than this."""
    first_token_p95_s: float | None = Field(None, gt=0)
    """Traffic goes back if more than 5 % of first tokens are shown to come later than this."""
    latency_p95_s: float | None = Field(None, gt=0)
    """The same for whole answers."""
    usd_per_request: float | None = Field(None, gt=0)
    """Traffic goes back if a request to the candidate is shown to cost more than this on average, in USD."""
    outcomes: tuple[Outcome, ...] = ("answered", "valid")
    """What must be no worse: `answered` (no error), `valid` (tool calls fit their schemas), `feedback` (ratings),
    `judged` (what the judge of `judge` says)."""
    confidence: float = Field(0.95, ge=0.8, lt=1)
    """One step up is wrong with at most 1 - this; all steps down of a candidate that is no worse, together, as well."""
    least_units: int = Field(50, ge=20)
    """Units (conversations, users) of each side without which no step is decided."""
    requests_per_unit: int = Field(20, gt=0)
    """Requests of one unit that count in a step: one busy caller decides nothing alone."""
    verdict: bool = True
    """Whether the first share of live traffic demands a promoted candidate's passed gate."""
    automatic: bool = True
    """Whether steps up are taken without a person; steps down always are."""
    most: Step = "100"
    """The last step that is taken without a person."""
    shadow_concurrency: int = Field(4, gt=0)
    """Shadow requests at a time; more are left out."""
    shadow_usd_per_day: float = Field(1.0, gt=0)
    """Most that shadow requests may cost in a day."""

    def margin_of(self, step: Step) -> float:
        """Return the margin that must be shown to leave `step` upwards: the first, one between, then the last."""
        first = max(self.margin, self.first_margin)
        return {"25": math.sqrt(first * self.margin), "50": self.margin, "100": self.margin}.get(step, first)


class Route(Section):
    """A model's name that clients ask for."""

    baseline: Target
    candidate: Target | None = None
    fallback: Target | None = None
    """Asked when the others fail before their first token."""
    fallback_until: date | None = None
    """Last day of the fallback."""
    policy: Policy = Policy()
    tasks: dict[str, Policy] = {}
    """Policies of single tasks."""

    def policy_of(self, task: str) -> Policy:
        return self.tasks.get(task, self.policy)


class Limits(Section):
    """What a request may be, and how many there may be."""

    body_mib: float = Field(8, gt=0, le=256)
    """Largest body."""
    body_s: float = Field(30, gt=0)
    """Longest time that a body may take to arrive."""
    depth: int = Field(64, gt=0, le=200)
    """Deepest nesting of a body."""
    schema_values: int = Field(4000, gt=0)
    """Most values in a request's tools and response schema: an engine compiles them to a grammar."""
    choices: int = Field(8, gt=0)
    """Largest `n`."""
    max_tokens: int = Field(32768, gt=0)
    """Largest `max_tokens`."""
    request_s: float = Field(600, gt=0)
    """Longest time for a request, all tries together; a caller's `x-tuneline-timeout-s` can shorten it."""
    concurrency: int = Field(256, gt=0)
    """Requests that are answered at a time."""
    queue: int = Field(256, ge=0)
    """Requests that wait for one of these places; more get 429."""
    queue_s: float = Field(10, gt=0)
    """Longest wait in the queue."""
    storage: str = "memory"
    """Where keys' rates are counted: `memory`, or a `redis://` or `valkey://` address shared by several gateways."""


class Log(Section):
    """The request log."""

    prompts: float = Field(0, ge=0, le=1)
    """Share of requests whose messages and answer are written too, redacted; 0 writes none."""
    retain_days: int = Field(30, gt=0)
    """Days after which a day's file is removed."""


class Recognition(Section):
    """How the task of a request that names none is recognised: by its words."""

    examples: dict[str, tuple[Path, ...]] = {}
    """Task → files with requests of it: suites (YAML), or rows in any format of training data. `other` can have some
    too. Without any, such requests are `other`."""
    catalogue: Path | None = None
    """A tool catalogue: requests for its tools are made of its phrases and descriptions."""
    tools: dict[str, tuple[str, ...]] = {}
    """Task → names in the catalogue, as in `whatsapp.*`; a tool is of the first task that names it."""
    least_confidence: float = Field(0.8, ge=0.5, lt=1)
    """Requests whose likeliest task is less likely than this are `other`."""

    @property
    def tasks(self) -> set[str]:
        """Return the tasks that can be recognised."""
        return {*self.examples, *self.tools}

    @model_validator(mode="after")
    def _check_number(self) -> Self:
        if bool(self.tools) != (self.catalogue is not None):
            raise ValueError("catalogue and tools: give both, or none of them")
        if len(self.tasks) == 1:
            raise ValueError("examples and tools: of two tasks at least, of which one may be other")
        return self


class Judge(Section):
    """A model that judges a share of live answers, for policies that have `judged` among their outcomes."""

    provider: str | None = None
    """A provider by name."""
    url: ProviderName | None = None
    """Or any OpenAI-compatible address, with `/v1`."""
    model: str
    """The model's name there."""
    key_variable: str | None = None
    """Environment variable that holds the key; a provider's usual one, if not given."""
    run: str
    """The run whose answers it judged and people labelled (`tuneline judge RUN --labels`): the measure of it."""
    least_kappa: float = Field(0.6, gt=0, le=1)
    """Least agreement with people, as Cohen's kappa; 0.6 to 0.8 is called substantial (Landis and Koch 1977)."""
    share: float = Field(0.2, gt=0, le=1)
    """Share of requests that are judged."""
    concurrency: int = Field(4, gt=0)
    """Answers judged at a time; more are left out."""
    prompt_usd_per_million: float = Field(0, ge=0)
    completion_usd_per_million: float = Field(0, ge=0)
    """Its prices."""
    usd_per_day: float = Field(1.0, gt=0)
    """Most that it may cost in a day."""

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if (self.provider is None) == (self.url is None):
            raise ValueError("one of provider and url")
        return self

    @property
    def label(self) -> str:
        """Its name in a run's `judge.json`."""
        return f"{self.provider or self.url}/{self.model}"


class Assistant(Section):
    """The model name `assistant`: a model of this gateway with what runs its calls. Read when the gateway starts."""

    model: str | None = None
    """The name here that it asks."""
    handlers: tuple[str, ...] = ()
    """What runs the calls: Python modules, OpenAPI files or addresses, `mcp:COMMAND`. Without any, there is none."""
    unconfirmed: tuple[str, ...] = ()
    """Tools that run without being confirmed each time."""
    run: str | None = None
    """The run whose tools the model learned: they are shown as there, the nearest to a question by its preselector."""
    catalogue: Path | None = None
    """Tools as the model is shown them, where there is no run."""
    knowledge: Path | None = None
    """A folder of text, whose passages answers are taken from."""
    prompt: str | None = None
    """System message, one of `tuneline prompts ls`."""
    memory: Literal["drop", "summarise"] = "drop"
    """What becomes of the oldest turns when a prompt has no room: deleted, or summarised by the model first."""
    picks_only: bool = False
    """The model only learned to choose tools: their results are the answer. Of a run it is known."""

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        if self.handlers and not self.model:
            raise ValueError("model is missing: the name here that the assistant asks")
        if self.run and self.catalogue:
            raise ValueError("one of run and catalogue: a run has its own tools")
        return self


class Gateway(Section):
    """`gateway.yaml`."""

    models: dict[str, Route] = {}
    """Names that clients ask for. A promoted name that is not among them answers under its own name."""
    tasks: tuple[str, ...] = ()
    """Tasks that a request can name, by the header `x-tuneline-task` or `metadata.task`; any other is `other`."""
    recognition: Recognition = Recognition()
    limits: Limits = Limits()
    log: Log = Log()
    judge: Judge | None = None
    assistant: Assistant = Assistant()

    @field_validator("models", "tasks")
    @classmethod
    def _check_names(cls, names: dict[str, Route] | tuple[str, ...]) -> dict[str, Route] | tuple[str, ...]:
        for name in names:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r}: letters, digits, '.', '_' and '-' only, 64 at most")
        return names

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        if unknown := self.recognition.tasks - {*self.tasks, OTHER}:
            raise ValueError(f"recognition: {', '.join(sorted(unknown))}: not among `tasks`")
        for name, route in self.models.items():
            if unknown := set(route.tasks) - {*self.tasks, OTHER}:
                raise ValueError(f"models.{name}.tasks: {', '.join(sorted(unknown))}: not among `tasks`")
            policies = (route.policy, *route.tasks.values())
            if self.judge is None and any("judged" in policy.outcomes for policy in policies):
                raise ValueError(f"models.{name}: outcomes: judged: needs a `judge`")
        return self


def read_gateway(file: Path = FILE) -> Gateway:
    """Return the settings in a file.

    Raises:
        BadRecipe: no such file, not YAML, an unknown key or a wrong value.
    """
    return parse_gateway(read_text(file, BadRecipe, MAX_BYTES), file)


def parse_gateway(text: str, file: Path) -> Gateway:
    """Return the settings in a text; `file` is named in errors.

    Raises:
        BadRecipe: not YAML, an unknown key or a wrong value.
    """
    try:
        return Gateway.model_validate(parse_yaml(text, file, BadRecipe) or {})
    except ValidationError as error:
        raise BadRecipe(f"{file}: {explain_first(error)}") from None
