"""The recipe: every decision that shapes a model. A YAML states only what differs from the defaults here.

A recipe says what, never where: `compute` and `watch` (nothing else) are left out of every fingerprint.
"""

import difflib
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from configs.hardware import hardware
from stages.errors import BadRecipe

ROOT = Path(__file__).parents[1]
"""Tuneline's own folder; a relative path is looked up in the current folder first, then here."""

SPARE_S = 60.0
"""Between a stage being told to stop and its call being killed: training saves a checkpoint in it."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BOUND = re.compile(r"(<=|>=|<|>|=)\s*(\d+(?:\.\d+)?)")
"""A measure's bound in `data.require`."""
COLUMN_TARGETS = (
    *("messages", "conversations", "instruction", "input", "output", "prompt", "completion"),
    *("system", "text", "style", "tools"),
)
"""What a column of a source can stand for."""
Measure = Literal[
    "rows",
    "tokens",
    "average_tokens",
    "longest_tokens",
    "format_errors",
    "errors",
    "warnings",
    "handler_coverage",
    "styles",
    "duplicates",
    "near_duplicates",
    "too_long",
]
FORGETTING = "configs/suites/forgetting.yaml"
GgufType = Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"]
FolderType = Literal["AWQ", "GPTQ", "INT8", "FP8", "NF4", "LLM.int8", "ONNX", "TensorRT-LLM"]


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True)


class Synthesis(Section):
    """A model that writes examples, instead of the built-in grammars."""

    provider: str
    """`groq`, `together`, `openai`, `local`, …, or the URL of any server that speaks OpenAI's API."""
    model: str
    budget_usd: float = Field(gt=0)
    """No request is sent that could cost more than what is left of this."""
    usd_per_million_input: float = Field(ge=0)
    usd_per_million_output: float = Field(ge=0)
    """What the provider charges for a million tokens, so that the budget can be kept."""


class Source(Section):
    """Where rows come from: a path with rows or text, a grammar that makes them, or the catalogue (`per_tool`)."""

    path: Path | None = None
    """A file or a folder: JSONL, JSON, CSV, Parquet or text, also gz or zst. docs/data.md lists the formats."""
    format: Literal["messages", "sharegpt", "alpaca", "prompt-completion", "text"] | None = None
    """How its records are to be read; found by their keys, and told, if not given."""
    columns: dict[str, str] = {}
    """Names a format uses, each with the column that stands for it: `{prompt: Question, completion: Answer}`."""
    style: str | None = None
    """A label for its text; `folder` or `file` takes the name of each file's folder or of the file."""
    learn: Literal["instruction", "continuation"] = "instruction"
    """instruction: text with a style answers a request to write in it. continuation: text is learned as it is."""
    passage_words: int = Field(180, gt=10)
    """About how many words of a text file make a row; paragraphs stay whole."""
    weight: float = Field(1.0, gt=0)
    """How often each of its training rows is seen: 2 is twice an epoch, 0.5 takes half of them."""
    grammar: Path | None = None
    """YAML of phrasings, expanded into requests and their tool calls."""
    rows: int | None = Field(None, gt=0)
    """How many rows to make from a grammar."""
    per_tool: int | None = Field(None, gt=0)
    """How many examples to make for each tool of the catalogue."""
    languages: tuple[Literal["en", "it", "id"], ...] = ("en", "it", "id")
    """Languages of examples made from the catalogue."""
    synthesize: Synthesis | None = None
    """A model that writes the examples of `per_tool`."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(given is not None for given in (self.path, self.grammar, self.per_tool)) != 1:
            raise ValueError("give either path or grammar, or per_tool")
        if (self.grammar is None) != (self.rows is None):
            raise ValueError("rows goes with grammar, and grammar needs it")
        if self.path is None and (self.format or self.columns or self.style):
            raise ValueError("format, columns and style go with path")
        if self.synthesize and not self.per_tool:
            raise ValueError("synthesize goes with per_tool")
        return self

    @field_validator("columns")
    @classmethod
    def _are_known(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := [target for target in columns if target not in COLUMN_TARGETS]:
            raise ValueError(f"{unknown[0]!r} is no name of a format; known are {', '.join(COLUMN_TARGETS)}")
        return columns


class Data(Section):
    """What the model learns from."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Training rows, merged in this order, then shuffled."""
    tools: Path | None = None
    """The catalogue of tools, YAML."""
    catalogue: Literal["shown", "learned"] = "shown"
    """shown: each prompt lists tools. learned: prompts list none, the model knows the catalogue by heart; shorter
    prompts, but a new tool needs a new training."""
    show: Literal["schemas", "signatures", "nearest", "auto"] = "schemas"
    """How tools are written: whole schemas, a line each, or those nearest to the request (`nearest` of them). auto: the
    first of these that leaves half of max_tokens free."""
    nearest: int = Field(16, gt=0)
    """How many tools a preselector by character n-grams leaves of the catalogue."""
    system: str = ""
    """System message put before rows that have none."""
    distractors: tuple[int, int] = (3, 7)
    """Fewest and most other tools shown beside the right ones in a training row."""
    whole_catalogue: float = Field(0.2, ge=0, le=1)
    """Share of training rows that show every tool."""
    max_tokens: int = Field(2048, gt=0)
    """Longest example kept, in tokens; longer ones are counted and left out, never cut."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of rows kept for validation."""
    validation_rows: int = Field(500, gt=0)
    """At most this many rows are kept for validation."""
    keep_thinking: bool = False
    """Whether the thinking of older transcripts (`[THINK] …`) is learned, as text before the answer."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes its text may be in; rows in another are warned of. Empty: any."""
    personal: Literal["regex", "presidio"] = "regex"
    """How personal data is looked for: by our own patterns, or by Presidio (an extra) too, for people's names."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Rows of files that are equal, or nearly, to an earlier one: counted, and never on both sides of a split."""
    held_out: tuple[Path, ...] = ()
    """Files of test rows that must not stand in training, exactly or nearly."""
    require: dict[Measure, int | float | str] = {}
    """What the data must reach, written to validation.json: a number, or one behind <, <=, >, >= or =."""
    seed: int = 0

    @field_validator("require")
    @classmethod
    def _can_be_compared(cls, require: dict[Measure, int | float | str]) -> dict[Measure, int | float | str]:
        for name, wanted in require.items():
            if isinstance(wanted, str) and not BOUND.fullmatch(wanted):
                raise ValueError(f"{name}: {wanted!r}: a number, or one behind <, <=, >, >= or =, as in '<4096'")
        return require


class Train(Section):
    """How the adapter is trained."""

    method: Literal["qlora", "lora", "full"] = "qlora"
    """qlora: base in NF4 with double quantization. lora: base in 16 or 32 bit. full: all weights, for small models."""
    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[Literal["attention", "mlp", "router", "experts"], ...] = ("attention", "mlp")
    """Which weights get an adapter, by meaning; `mlp` is the shared expert too."""
    modules_to_save: tuple[Literal["embeddings", "head"], ...] = ()
    """What is trained whole beside the adapter."""
    init_from: str | None = Field(None, pattern=rf"^{NAME.pattern}$")
    """A run whose adapter is gone on from; its targets and rank must be these."""
    learning_rate: float = Field(2e-4, gt=0)
    final_learning_rate: float = Field(0.0, ge=0)
    """Where a cosine schedule ends."""
    lora_plus: float = Field(1.0, ge=1)
    """How much faster the adapter's B learns than its A (LoRA+, arXiv 2402.12354); 1 is plain LoRA."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Stops here, whatever `epochs` says."""
    batch_rows: int = Field(32, gt=0)
    """Rows per optimizer step, over all GPUs; micro-batch and accumulation follow from the hardware."""
    max_gradient_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    save_steps: int = Field(50, gt=0)
    """A checkpoint every so many steps."""
    evaluate_steps: int = Field(50, gt=0)
    """Validation loss every so many steps."""
    keep: Literal["last", "best"] = "last"
    """Which weights are the result: those of the last step, or of the lowest validation loss."""
    patience: int | None = Field(None, gt=0)
    """Stops after so many validations in a row without a lower loss; None never does."""
    min_delta: float = Field(0.0, ge=0)
    """How much lower, in nats a token, counts as lower."""
    packing: bool = False
    """Rows packed into sequences of `data.max_tokens`, each seeing itself alone."""
    seed: int = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.targets and self.method != "full":
            raise ValueError("targets: at least one; `full` needs none")
        if "router" in self.targets and self.dropout:
            raise ValueError(f"dropout: {self.dropout}: must be 0 with the target router, which is a Parameter")
        if self.method == "full" and (self.modules_to_save or self.init_from):
            raise ValueError("method full trains every weight: modules_to_save and init_from go with lora and qlora")
        if self.final_learning_rate and self.schedule != "cosine":
            raise ValueError(f"final_learning_rate goes with the cosine schedule, not with {self.schedule}")
        return self


class Convert(Section):
    """Which files are made of base and adapter."""

    types: tuple[GgufType, ...] = ("F16", "Q8_0", "Q4_K_M")
    """GGUF files of the tuned model; F16 is the 16-bit reference."""
    format: Literal["gguf", "safetensors"] = "gguf"
    """safetensors: beside the GGUF files (they are what is evaluated) a merged 16-bit checkpoint, for vLLM."""
    folders: tuple[FolderType, ...] = ()
    """Quantized checkpoints beside them: by llmcompressor for vLLM; NF4, LLM.int8 by bitsandbytes for Transformers.
    ONNX, in fp32, is for onnxruntime; TensorRT-LLM is a folder in FP8 for trtllm-serve."""
    calibration_tokens: int = Field(65_536, ge=512)
    """Tokens of the run's own training text on which llmcompressor measures what to keep."""
    imatrix_tokens: int = Field(0, ge=0)
    """Tokens of the run's own training text on which is measured which weights count, for the types of few bits."""
    verify_tokens: int = Field(2048, ge=64)
    """Tokens of the run's own text on which each quantization is compared with 16 bit."""
    top_1_floor: float = Field(0.5, ge=0, le=1)
    """A quantization that would choose 16 bit's next token less often than this is broken: the stage fails."""


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


class Serve(Section):
    """How the result is served; the form decides the engine."""

    form: Literal["gguf", "adapter", "merged"] = "gguf"
    """gguf: llama.cpp. adapter (on the base) and merged: vLLM."""
    type: GgufType = "Q4_K_M"
    """Which file answers when the form is gguf."""
    context: int = Field(2048, gt=0)
    """Tokens a request and its answer may take."""


class Container(Section):
    """The hardware of one stage on Modal, and how long it may take."""

    gpu: str | None = None
    """A kind and a count, as in `H100:2`; None runs on CPU."""
    cores: float = Field(2.0, gt=0, le=64)
    memory_gib: float = Field(8.0, gt=0, le=1024)
    hours: float = Field(1.0, gt=0, le=720)
    """The stage is stopped after this. A call ends at 24 h: before that it checkpoints, and a successor goes on."""
    retries: int = Field(2, ge=0, le=10)
    """How often a preempted or lost container is started again, in all."""

    @field_validator("gpu")
    @classmethod
    def _is_for_hire(cls, gpu: str | None) -> str | None:
        if gpu:
            hardware().parse(gpu)
        return gpu

    disk_gib: ClassVar[int] = 0
    """Asked for beyond what every container has; Modal lets nobody change it per call."""

    @property
    def usd_per_hour(self) -> float:
        return 3600 * hardware().usd_per_second(self.gpu, self.cores, self.memory_gib, self.disk_gib)

    @property
    def hours_at_most(self) -> float:
        """With all retries: each may run to its end, and each of its calls take `SPARE_S` to save what it has."""
        calls = 1 + self.hours // (hardware().longest_call_hours - 1)
        return (self.hours + calls * SPARE_S / 3600) * (1 + self.retries)

    @property
    def usd_at_most(self) -> float:
        return self.usd_per_hour * self.hours_at_most


class Conversion(Container):
    """Convert's: its disk holds Llama 4 Scout, the largest base of our recipes, and its GGUF files."""

    disk_gib: ClassVar[int] = 700


WALK = Container(cores=0.5, memory_gib=1.0)
"""What waits for the stages' containers, as long as they take."""


class Compute(Section):
    """Where it runs; never part of a fingerprint."""

    fetch: Container = Container(hours=6)
    prepare: Container = Container(cores=4, memory_gib=16)
    train: Container = Container(gpu="H100", cores=8, memory_gib=64, hours=24, retries=3)
    convert: Conversion = Conversion(cores=8, memory_gib=32, hours=4)
    evaluate: Container = Container(gpu="A10", cores=4, memory_gib=32, hours=4)
    max_cost_usd: float | None = Field(None, gt=0)
    """A run that could cost more is refused before anything starts; one that has cost so much checkpoints and stops."""
    threads: int | None = Field(None, gt=0)
    """CPU threads; None takes the cores this process may use. The same number gives the same bytes."""
    micro_batch_rows: int | None = Field(None, gt=0)
    """Rows at a time on one device; None takes what fits."""
    processes: int | None = Field(None, gt=0)
    """Processes that train together; None is one a GPU."""
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How they share: ddp, a model each; fsdp2, a shard each. auto takes ddp where the model fits one GPU."""

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_is_not_stated(cls, given: Any) -> Any:
        """A stage's defaults stand where only some of its keys are given: more hours for an H100 stay an H100's."""
        if not isinstance(given, dict):
            return given
        defaults = {name: field.default for name, field in cls.model_fields.items() if name in given}
        return given | {
            name: default.model_dump() | given[name]
            for name, default in defaults.items()
            if isinstance(default, Container) and isinstance(given[name], dict)
        }

    @property
    def preflight(self) -> Container:
        """Training's own hardware, for as long as a few steps take."""
        return self.train.model_copy(
            update={"hours": min(1.0, self.train.hours), "retries": min(1, self.train.retries)}
        )


class Watch(Section):
    """What raises an alert, in the log, the terminal and W&B, and stops nothing."""

    gradient_norm: float | None = Field(None, gt=0)
    """Alert at this gradient norm or above."""
    memory_gb: float | None = Field(None, gt=0)
    """Alert at this peak of GPU memory or above, in GB of 10^9 bytes."""
    loss: Literal["falling"] | None = None
    """Alert when the mean loss of a hundred steps is not below that of the hundred before."""


class Recipe(Section):
    """Every decision that shapes a model."""

    name: str = Field("", max_length=64)
    """Called after its file unless told otherwise; a run is called after its recipe."""
    base: str = "tiny"
    """A name of models.yaml (`tiny`, `llama-3.1-8b-instruct`, …), a hub id, or a local folder."""
    revision: str | None = None
    """Commit of the hub's repository; required for a hub id."""
    data: Data
    train: Train = Train()
    convert: Convert = Convert()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    compute: Compute = Compute()
    watch: Watch = Watch()

    @model_validator(mode="after")
    def _served_type_is_made(self) -> Self:
        if self.serve.form == "gguf" and self.serve.type not in self.convert.types:
            raise ValueError(
                f"serve.type is {self.serve.type}, but convert.types only makes {', '.join(self.convert.types)}"
            )
        return self

    def section(self, *names: str) -> dict[str, Any]:
        """The named sections as JSON-able settings, each file replaced by the hash of its content."""
        dumped = {name: getattr(self, name) for name in names}
        return {name: _hashed(value) for name, value in dumped.items()}


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, called after the file unless it has a name.

    Raises:
        BadRecipe: not there, not YAML, an unknown key, a wrong value, or a file it names is missing.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise BadRecipe(f"{path}: no such recipe; `ls configs/recipes` shows those that come with Tuneline") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{path}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise BadRecipe(f"{path}: a recipe is a mapping of keys; this is {type(raw).__name__}")
    try:
        recipe = Recipe.model_validate({"name": path.stem} | raw)
    except ValidationError as error:
        causes = [e for e in error.errors() if e["type"] != "too_short"]  # as a list also is whose items are wrong
        raise BadRecipe("\n".join(_explain(path, e) for e in causes or error.errors())) from None
    if not NAME.fullmatch(recipe.name):
        raise BadRecipe(f"{path}: name: {recipe.name!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    for key, file in _files(recipe):
        if not find(file).exists() or (find(file).is_dir() and not key.endswith(("].path", ".include"))):
            raise BadRecipe(f"{path}: {key}: {file}: no such file")
    return _named(recipe)


def _named(recipe: Recipe) -> Recipe:
    """A name of models.yaml as the hub id and commit it stands for, so that nothing else has to know the table.

    Without a commit, the one that this machine has verified and pinned.
    """
    from configs.models import UNVERIFIED, registry

    if recipe.base == "tiny" or find(Path(recipe.base)).is_dir():
        return recipe
    base, revision = recipe.base, recipe.revision
    if key := registry().find(base):
        model = registry().models[key]
        base = model.hub or key
        revision = revision or (None if model.revision == UNVERIFIED else model.revision)
    if revision is None and "/" in base:
        from stages.pins import pin_of

        revision = pin_of(base)
    return recipe.model_copy(update={"base": base, "revision": revision})


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


def find(path: Path) -> Path:
    """A path as a recipe writes it: absolute, from the current folder, or from Tuneline's own."""
    path = path.expanduser()
    return path if path.is_absolute() or path.exists() else ROOT / path


def with_files(recipe: Recipe, moved: Callable[[Path], Path]) -> Recipe:
    """The recipe with `moved(path)` for each file it names; fingerprints hash contents, so they stay the same."""

    def replaced(value: Any) -> Any:
        if isinstance(value, Path):
            return moved(value)
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: replaced(getattr(value, name)) for name in type(value).model_fields})
        return tuple(replaced(item) for item in value) if isinstance(value, tuple) else value

    changed: Recipe = replaced(recipe)
    return changed


def _files(value: Any, key: str = "") -> list[tuple[str, Path]]:
    if isinstance(value, Path):
        return [(key, value)]
    if isinstance(value, BaseModel):
        children = [(f"{key}.{name}" if key else name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, tuple):
        children = [(f"{key}[{i}]", item) for i, item in enumerate(value)]
    else:
        return []
    return [found for name, child in children for found in _files(child, name)]


def _hashed(value: Any) -> Any:
    if isinstance(value, Path):
        return "sha256:" + content_hash(find(value))[:16]
    if isinstance(value, BaseModel):
        return {name: _hashed(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [_hashed(item) for item in value]
    return value


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents, read in pieces."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0".encode())
        with file.open("rb") as content:
            while piece := content.read(1 << 20):
                digest.update(piece)
    for file in beside(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def beside(path: Path) -> list[Path]:
    """Files a YAML file leans on: a grammar is also what it inherits, and the catalogue it is made from."""
    if path.suffix not in (".yaml", ".yml"):
        return []
    return [path.parent / name for name in re.findall(r"^(?:inherit|catalogue): *(\S+)", path.read_text(), re.M)]


def _explain(path: Path, error: Any) -> str:
    measure = error["loc"][-1:] == ("[key]",)
    location = error["loc"][:-1] if measure else error["loc"]
    key = ".".join(str(part) for part in location) or "recipe"
    if error["type"] == "extra_forbidden" or measure:
        known = list(get_args(Measure)) if measure else _keys_of(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, 1, 0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{path}: {key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{path}: {key}: required"
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}: {key}: {error['input']!r}: {message}" if _is_plain(error["input"]) else f"{path}: {key}: {message}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)


def _keys_of(location: tuple[str | int, ...]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
            section = next(a for a in inner if issubclass(a, BaseModel))
    return list(section.model_fields)
