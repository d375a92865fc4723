"""`evaluate` in a recipe: suites and what they ask, targets, and the gate."""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from tuneline.configs.section import Section
from tuneline.core.paths import find

FORGETTING = "configs/suites/forgetting.yaml"


class WantedCall(Section):
    """One of several calls that an answer must make, in any order."""

    call: str
    """The tool."""
    arguments: dict[str, Any] | None = None
    """Not looked at if not given."""


class Turn(Section):
    """What is asked, and what answers it: a call, several, words, or no call if none of these is given."""

    ask: str | tuple[str, ...]
    """What is asked; `{name}` stands for a value of `each`. Several are as many items; of a later turn, one each."""
    call: str | None = None
    """The tool that must be called."""
    arguments: dict[str, Any] | None = None
    """Its arguments; not looked at if not given."""
    calls: tuple[WantedCall, ...] = ()
    """Several calls that must be made at once, in any order, and no other."""
    says: tuple[str, ...] = ()
    """Words the answer must have; case and punctuation do not count. `Paris|Parigi` takes either."""
    never: tuple[str, ...] = ()
    """Words it must not have."""
    price: str | None = None
    """The one price it must tell, as in `€2,500`."""
    language: str | None = None
    """ISO 639-1 code of the language asked in; with `in_language`, of the answer too."""
    in_language: bool = False
    """The answer must be in `language`, whole, neither cut off nor repeating itself."""
    reference: str | None = None
    """A good answer, to which chrF and BLEU are measured."""
    style: str | None = None
    """The style of the run that the answer must be told to be in."""
    fact: str | None = None
    """A sentence hidden in a long text before the question, in a suite with `lengths`."""
    tools: bool = True
    """Whether the catalogue is offered with it."""

    @model_validator(mode="after")
    def _call_or_words(self) -> Self:
        words = self.says or self.never or self.price or self.in_language or self.style
        if (self.call or self.calls) and words:
            raise ValueError("call goes without says, never, price, in_language and style")
        if self.call and self.calls:
            raise ValueError("give call or calls")
        if self.in_language and not self.language:
            raise ValueError("in_language needs language")
        return self


class Request(Turn):
    """Requests of a suite, the first of a conversation if others come `then`."""

    each: tuple[dict[str, str], ...] = ({},)
    """Values; every one of `ask` is asked with every one of these."""
    then: tuple[Turn, ...] = ()
    """What is asked next, after the model's own answers; each is an item, and all of them are one cluster."""


class Suite(Section):
    """Requests with known answers, made from a grammar, written out, or both."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    grammar: Path | tuple[Path, ...] | None = None
    """What requests are made from; of several, such as one a language, each makes an equal part."""
    rows: int | None = Field(None, gt=0)
    """How many to make from the grammar."""
    parallel: int = Field(0, ge=0)
    """How many more to make of two requests in one, joined as the grammar's `both` says."""
    items: tuple[Request, ...] = ()
    """Requests written out."""
    offered: int | None = Field(None, gt=0)
    """How many tools are shown with each request, chosen for it by the preselector; None: the whole catalogue."""
    styles: bool = False
    """Every request is asked for each `{style}` of the run, with `{other}` for the next one."""
    lengths: tuple[int, ...] = ()
    """Tokens of the long texts in which each `fact` is hidden; those that do not fit `serve.context` are left out."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where in a long text, 0 being its beginning."""
    max_tokens: int = Field(96, gt=0)
    """Longest answer; a right call takes far fewer, and a model that rambles is stopped."""
    floor: float | None = Field(None, ge=0, le=1)
    """The served model's share of right answers must reach this with its one-sided lower bound."""
    independent: Literal["frames", "items"] = "frames"
    """What the floor's bound counts as one draw. frames: it holds for ways of asking that nobody has written here, so
    requests of one frame are worth less. items: it holds for requests of this suite's own kind."""
    seed: int = 1
    proves: bool = True
    """false: shown, and left out of verdicts and gate; for items too few to prove anything."""
    only_compared: bool = False
    """Held against the base alone: no part of the composite, and no tool or kind of answer must be known."""

    @model_validator(mode="after")
    def _has_requests(self) -> Self:
        if (self.grammar is None) != (self.rows is None) and not self.lengths:
            raise ValueError("rows goes with grammar, and grammar needs it")
        if not self.grammar and not self.items:
            raise ValueError("give grammar and rows, or items")
        if self.parallel and not self.grammar:
            raise ValueError("parallel goes with grammar")
        if self.lengths and not all(request.fact and not request.then for request in self.items):
            raise ValueError("lengths goes with items that have a fact, and no other turn")
        if any(not 0 <= depth <= 1 for depth in self.depths):
            raise ValueError("depths: from 0, the beginning, to 1")
        return self

    @property
    def grammars(self) -> tuple[Path, ...]:
        return self.grammar if isinstance(self.grammar, tuple) else (self.grammar,) if self.grammar else ()


class Service(Section):
    """What the served model must do under load, as `tuneline load` measured it; null takes a demand out."""

    p95_latency_s: float | None = Field(None, gt=0)
    """At most this, from when a request is due to its last token, for 95 of 100 requests."""
    p95_first_token_s: float | None = Field(None, gt=0)
    """At most this, from when a request is due to its first token, for 95 of 100 requests."""
    requests_per_second: float | None = Field(None, gt=0)
    """At least this, answered."""
    memory_gb: float | None = Field(None, gt=0)
    """At most this much resident memory of the server, in 10^9 bytes."""
    usd_per_1000_queries: float | None = Field(None, gt=0)
    """At most this, at the rate that was measured."""
    errors: float = Field(0.01, ge=0, le=1)
    """At most this share of requests fails."""


class Gate(Section):
    """What a run must show before it goes live, beside its suites' floors; null takes a demand out."""

    no_task_worse: bool = True
    """On no suite may the served model be worse than the base."""
    composite: float | None = Field(90.0, ge=0, le=100)
    """At least this: 100 × the unweighted mean of the suites' shares."""
    whole_catalogue: bool = True
    """Every tool of the catalogue must be asked for in some suite, and some requests must need none."""
    forgetting: bool = True
    """configs/suites/forgetting.yaml is asked too: what the base could do, the served model must still be able to."""
    validation_loss: float | None = Field(None, gt=0)
    """Below this, in nats per learned token, as training measures it on validation rows; 0.4 is a usual target."""
    perplexity: float | None = Field(None, gt=1)
    """Below this, for prose: the served file's, over all tokens of the run's own rows, validation first, as convert
    measures it; 3.5 is a usual target. It is not exp(validation_loss), which counts learned tokens alone."""
    service: Service | None = None
    """What it must do under load."""
    judged: float | None = Field(None, ge=0, le=1)
    """The lower bound of the share of answers that a judge (`tuneline judge`) finds good must reach this; it counts
    only where the judge's agreement with people was measured."""


class Target(Section):
    """A model elsewhere that is asked the same suites: any endpoint, or a closed model through a provider."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """What it is called in tables, beside `base` and `tuned-Q4_K_M`."""
    provider: str
    """`openai`, `anthropic`, `groq`, `local`, …, or the URL of any server that speaks OpenAI's API."""
    model: str
    key_variable: str | None = None
    """Environment variable that holds the key, where it is not the provider's usual one."""
    usd_per_million_input: float = Field(ge=0)
    usd_per_million_output: float = Field(ge=0)
    """What is charged for a million tokens; 0 both for an endpoint of your own."""
    budget_usd: float = Field(0.0, ge=0)
    """No request is sent that could cost more than what is left of this."""
    sampling: dict[str, Any] = {}
    """What is sent beside the messages, over `temperature` and `max_tokens`; null leaves one of them out."""

    @model_validator(mode="after")
    def _has_a_budget(self) -> Self:
        if self.is_paid and not self.budget_usd:
            raise ValueError("budget_usd: a model that costs needs one")
        return self

    @property
    def is_paid(self) -> bool:
        return bool(self.usd_per_million_input or self.usd_per_million_output)


class Standard(Section):
    """Public benchmarks by name, asked by lm-eval; their data must be at hand (docs/suites.md)."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """As lm-eval calls them: `gsm8k`, `ifeval`, `mgsm_direct_it`, …"""
    limit: int | None = Field(None, gt=0)
    """At most so many items of each."""
    include: Path | None = None
    """A folder with tasks of your own, in lm-eval's YAML."""


class Evaluate(Section):
    """What the models are asked, and what they must show."""

    suites: tuple[Suite, ...] = ()
    """Written out, or files that are: `configs/suites/pricing.yaml`."""
    perplexity_rows: int = Field(0, ge=0)
    """Validation rows on which each file's perplexity is measured, over all tokens and over learned ones."""
    targets: tuple[Target, ...] = ()
    """Models elsewhere, asked the same."""
    standard: Standard | None = None
    """Public benchmarks, of base and tuned."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of the two-sided intervals, of the one-sided bounds and of the tests."""
    gate: Gate | None = None
    """Demands beside the suites' floors; `gate: {}` makes the usual ones."""
    tolerance_points: float = Field(1.0, ge=0, le=100)
    """Percentage points of right answers that a smaller file may lose against 16 bit and still be recommended."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_forgotten(cls, given: Any) -> Any:
        """A gate that wants it has the suite of what a model could do before."""
        gate = given.get("gate") if isinstance(given, dict) else None
        if not isinstance(gate, dict) or not gate.get("forgetting", True):
            return given
        suites = list(given.get("suites") or ())
        names = [one.get("name") if isinstance(one, dict) else Path(str(one)).stem for one in suites]
        return given if "forgetting" in names else {**given, "suites": [*suites, FORGETTING]}

    @field_validator("suites", mode="before", json_schema_input_type=tuple[Suite | str, ...])
    @classmethod
    def _read_files(cls, suites: Any) -> Any:
        return [_suite_file(Path(one)) if isinstance(one, str) else one for one in suites]


def _suite_file(path: Path) -> dict[str, Any]:
    """A suite's file as settings; they stand in the run's recipe, so that the file may change later."""
    try:
        written = yaml.safe_load(find(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a suite: {error}") from None
    if not isinstance(written, dict):
        raise ValueError(f"{path}: a suite is a mapping of keys; this is {type(written).__name__}")
    inherited = _suite_file(path.parent / written.pop("inherit")) if "inherit" in written else {}
    return inherited | {"name": path.stem} | written
