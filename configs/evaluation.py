"""`evaluate` in a recipe: suites and their requests, targets, and the gate."""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tuneline.configs.section import ProviderName, Section
from tuneline.configs.user_paths import LocatedText, UserPath, locate, locate_texts
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import resolve

FORGETTING = "configs/suites/forgetting.yaml"
MAX_INHERITED = 8
"""Files that inherit one another; ours are two."""


class WantedCall(Section):
    """One of several tool calls that an answer must make, in any order."""

    call: str
    """The tool."""
    arguments: dict[str, Any] | None = None
    """Its arguments; not compared if not given."""


class Turn(Section):
    """A user message and its right answer: a tool call, several, words, or no call if none of these is given."""

    ask: str | tuple[str, ...]
    """The message; `{name}` is replaced by a value of `each`. Several are as many items; of a later turn, one each."""
    call: str | None = None
    """The tool that must be called."""
    arguments: dict[str, Any] | None = None
    """Its arguments; not compared if not given."""
    calls: tuple[WantedCall, ...] = ()
    """Several calls that must be made at once, in any order, and no others."""
    says: tuple[str, ...] = ()
    """Words the answer must contain, ignoring case and punctuation. `Paris|Parigi` accepts either."""
    never: tuple[str, ...] = ()
    """Words the answer must not contain."""
    price: str | None = None
    """The only price the answer must state, as in `€2,500`."""
    language: str | None = None
    """ISO 639-1 code of the message's language; with `in_language`, of the answer's too."""
    in_language: bool = False
    """Whether the answer must be in `language`, and neither cut off nor repetitive."""
    reference: str | None = None
    """A reference answer for chrF and BLEU."""
    style: str | None = None
    """The style of the run that the answer must be recognized as."""
    fact: str | None = None
    """A sentence hidden in a long text before the message, in a suite with `lengths`."""
    tools: bool = True
    """Whether the catalogue is offered with the message."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        words = self.says or self.never or self.price or self.in_language or self.style
        if (self.call or self.calls) and words:
            raise ValueError("call cannot be combined with says, never, price, in_language and style")
        if self.call and self.calls:
            raise ValueError("give call or calls")
        if self.in_language and not self.language:
            raise ValueError("in_language needs language")
        return self


class Request(Turn):
    """A request of a suite, or the first turn of a conversation if others follow in `then`."""

    each: tuple[dict[str, str], ...] = ({},)
    """Values for `{name}`; every message of `ask` is combined with every entry."""
    then: tuple[Turn, ...] = ()
    """The next turns, after the model's own answers; each is an item, and all of them are one cluster."""


class Suite(Section):
    """Requests with known answers: generated from a grammar, written out, or both."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    grammar: UserPath | tuple[UserPath, ...] | None = None
    """The grammar of requests; of several, such as one per language, each generates an equal share."""
    rows: int | None = Field(None, gt=0)
    """Requests to generate from the grammar; of logged chats, the most that are asked."""
    path: UserPath | None = None
    """Logged chats, a file or folder in any format of training rows: the last assistant turn is the right answer."""
    min_chrf: float | None = Field(None, ge=0, le=100)
    """Least chrF (0 to 100) of an answer in words to the logged one; None: it must have the same words, in any case and
    punctuation."""
    parallel: int = Field(0, ge=0)
    """Further requests that join two in one, as the grammar's `both` says."""
    items: tuple[Request, ...] = ()
    """Requests written out."""
    offered: int | None = Field(None, gt=0)
    """Tools offered with each request, chosen by the preselector; None: the whole catalogue."""
    styles: bool = False
    """Whether every request is repeated for each `{style}` of the run, with `{other}` for the next one."""
    lengths: tuple[int, ...] = ()
    """Lengths, in tokens, of the texts in which each `fact` is hidden; those beyond `serve.context` are left out."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Positions of the fact in a long text, from 0, its beginning, to 1."""
    max_tokens: int = Field(96, gt=0)
    """Longest answer, in tokens; a right call takes far fewer, and a model that rambles is stopped."""
    floor: float | None = Field(None, ge=0, le=1)
    """Required one-sided lower bound of the served model's share of right answers."""
    independent: Literal["phrasings", "items"] = "phrasings"
    """What the floor's bound counts as an independent draw. phrasings: the bound holds for phrasings that are not in
    the suite, so requests of one phrasing count for less. items: it holds for requests like those in the suite."""
    seed: int = 1
    proves: bool = True
    """Whether it counts in verdicts and gate; false only reports it, for suites with too few items for proof."""
    only_compared: bool = False
    """Compared with the base alone: not part of the composite, and no tool or kind of answer must be known."""

    @model_validator(mode="before")
    @classmethod
    def _name_after_file(cls, raw: Any) -> Any:
        """Call a suite of logged chats after its file if it has no name."""
        if not isinstance(raw, dict) or "name" in raw or not raw.get("path"):
            return raw
        return raw | {"name": re.sub(r"[^a-z0-9]+", "_", Path(str(raw["path"])).stem.lower()).strip("_")}

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if (self.grammar is None) != (self.rows is None) and not self.lengths and not self.path:
            raise ValueError("rows and grammar must be given together")
        if not self.grammar and not self.items and not self.path:
            raise ValueError("give grammar and rows, items, or the path of logged chats")
        if self.path and (self.grammar or self.items):
            raise ValueError("path cannot be combined with grammar or items; write two suites")
        if self.min_chrf is not None and not self.path:
            raise ValueError("min_chrf requires path")
        if self.parallel and not self.grammar:
            raise ValueError("parallel requires grammar")
        if self.lengths and not all(request.fact and not request.then for request in self.items):
            raise ValueError("lengths requires items with a fact and without further turns")
        if any(not 0 <= depth <= 1 for depth in self.depths):
            raise ValueError("depths: from 0, the beginning, to 1")
        return self

    @property
    def grammars(self) -> tuple[Path, ...]:
        """`grammar` as a tuple: empty, one, or several."""
        return self.grammar if isinstance(self.grammar, tuple) else (self.grammar,) if self.grammar else ()


class Service(Section):
    """Requirements on the served model under load, as measured by `tuneline load`; null drops one."""

    p95_latency_s: float | None = Field(None, gt=0)
    """Upper limit of the 95th percentile of latency, from when a request is due to its last token."""
    p95_first_token_s: float | None = Field(None, gt=0)
    """Upper limit of the 95th percentile of TTFT, from when a request is due to its first token."""
    requests_per_second: float | None = Field(None, gt=0)
    """Lower limit of answered requests per second."""
    memory_gb: float | None = Field(None, gt=0)
    """Upper limit of the server's resident memory, in 10^9 bytes."""
    usd_per_1000_queries: float | None = Field(None, gt=0)
    """Upper limit of the cost at the measured rate."""
    errors: float = Field(0.01, ge=0, le=1)
    """Upper limit of the share of failed requests."""


class Gate(Section):
    """What a run must show before it goes live, in addition to its suites' floors; null drops a requirement."""

    no_task_worse: bool = True
    """Whether the served model may not be worse than the base on any suite."""
    composite: float | None = Field(90.0, ge=0, le=100)
    """Lower limit of the composite: 100 × the unweighted mean of the suites' shares of right answers."""
    whole_catalogue: bool = True
    """Whether suites must cover every tool of the catalogue, and have requests that need none."""
    forgetting: bool = True
    """Whether configs/suites/forgetting.yaml is asked too: the served model must still do what the base could."""
    validation_loss: float | None = Field(None, gt=0)
    """Upper limit of training's validation loss, in nats per token in the loss; 0.4 is a usual target."""
    perplexity: float | None = Field(None, gt=1)
    """Upper limit of the served file's perplexity, for prose: over all tokens of the run's own rows, validation first,
    as convert measures it; 3.5 is a usual target. Not exp(validation_loss), which counts tokens in the loss alone."""
    service: Service | None = None
    """Requirements under load."""
    judged: float | None = Field(None, ge=0, le=1)
    """Required lower bound of the share of answers that a judge (`tuneline judge`) finds good; it counts only if the
    judge's agreement with people was measured."""


class Target(Section):
    """An external model that is asked the same suites: any endpoint, or a closed model through a provider."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Its name in tables, beside `base` and `tuned-Q4_K_M`."""
    provider: ProviderName
    """`openai`, `anthropic`, `groq`, `local`, …, or the URL of any server that speaks OpenAI's API."""
    model: str
    key_variable: str | None = None
    """Environment variable that holds the key, if it is not the provider's usual one."""
    usd_per_million_input: float = Field(ge=0)
    usd_per_million_output: float = Field(ge=0)
    """Its prices; both 0 for an endpoint of your own."""
    budget_usd: float = Field(0.0, ge=0)
    """A request that could cost more than what is left of this is not sent."""
    sampling: dict[str, Any] = {}
    """Parameters of the requests, which override `temperature` and `max_tokens`; null omits one of them."""

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if self.is_paid and not self.budget_usd:
            raise ValueError("budget_usd: required for a paid model")
        return self

    @property
    def is_paid(self) -> bool:
        return bool(self.usd_per_million_input or self.usd_per_million_output)


class Standard(Section):
    """Public benchmarks, run by lm-eval; their data must be on this machine (docs/suites.md)."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """lm-eval's names: `gsm8k`, `ifeval`, `mgsm_direct_it`, …"""
    limit: int | None = Field(None, gt=0)
    """Maximum number of items per task."""
    include: UserPath | None = None
    """A folder with your own tasks, in lm-eval's YAML."""


class Evaluate(Section):
    """What the models are asked, and what they must achieve."""

    suites: tuple[Suite, ...] = ()
    """Suites, or the names of their files: `configs/suites/pricing.yaml`."""
    perplexity_rows: int = Field(0, ge=0)
    """Validation rows on which each file's perplexity is measured, over all tokens and over those in the loss."""
    targets: tuple[Target, ...] = ()
    """External models that are asked the same suites."""
    standard: Standard | None = None
    """Public benchmarks for base and tuned model."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence level of two-sided intervals, one-sided bounds and tests."""
    gate: Gate | None = None
    """Requirements in addition to the suites' floors; `gate: {}` takes the defaults."""
    tolerance_points: float = Field(1.0, ge=0, le=100)
    """Percentage points of right answers that a smaller file may lose to 16 bit and still be recommended."""

    @model_validator(mode="before")
    @classmethod
    def _add_forgetting_suite(cls, raw: Any) -> Any:
        """Add the suite `forgetting`, if the gate requires it and it is not among the suites."""
        gate = raw.get("gate") if isinstance(raw, dict) else None
        if not isinstance(gate, dict) or not gate.get("forgetting", True):
            return raw
        suites = raw.get("suites") or []
        if not isinstance(suites, list | tuple):
            return raw
        names = [suite.get("name") if isinstance(suite, dict) else Path(str(suite)).stem for suite in suites]
        return raw if "forgetting" in names else {**raw, "suites": [*suites, FORGETTING]}

    @field_validator("suites", mode="before", json_schema_input_type=tuple[Suite | str, ...])
    @classmethod
    def _read_suite_files(cls, suites: Any) -> Any:
        if not isinstance(suites, list | tuple):
            return suites
        return [_read_suite(suite) if isinstance(suite, str) else suite for suite in suites]


def _read_suite(name: str, inheriting: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a suite's file as settings. They are copied into the run's recipe, so that the file may change later.

    `inheriting` are the files that inherit this one.
    """
    path = Path(locate(name))
    file = resolve(path)
    if file.resolve() in inheriting or len(inheriting) > MAX_INHERITED:
        raise ValueError(f"{path}: inherit: {' → '.join(f.name for f in inheriting)}: circular, or too many levels")
    try:
        settings = read_yaml(file, BadRecipe)
    except BadRecipe as error:
        raise ValueError(f"{path}: not a suite: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: a suite is a mapping of keys; this is {type(settings).__name__}")
    inherit = settings.pop("inherit", None)
    if inherit is not None and not isinstance(inherit, str):
        raise ValueError(f"{path}: inherit: the name of a file; this is {type(inherit).__name__}")
    inherited = _read_suite(LocatedText(inherit, file.parent), (*inheriting, file.resolve())) if inherit else {}
    return inherited | {"name": path.stem} | dict(locate_texts(settings, file.parent.absolute()))
