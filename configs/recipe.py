"""The recipe: every decision that shapes a model. A YAML states only what differs from the defaults here.

A recipe says what, never where: `compute` and `watch` (nothing else) are left out of every fingerprint.
"""

import difflib
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from tuneline.configs.compute import Compute
from tuneline.configs.evaluation import Evaluate
from tuneline.configs.section import Section
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import NAME, find

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
GgufType = Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"]
FolderType = Literal["AWQ", "GPTQ", "INT8", "FP8", "NF4", "LLM.int8", "ONNX", "TensorRT-LLM"]


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


class Serve(Section):
    """How the result is served; the form decides the engine."""

    form: Literal["gguf", "adapter", "merged"] = "gguf"
    """gguf: llama.cpp. adapter (on the base) and merged: vLLM."""
    type: GgufType = "Q4_K_M"
    """Which file answers when the form is gguf."""
    context: int = Field(2048, gt=0)
    """Tokens a request and its answer may take."""


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
    from tuneline.configs.models import UNVERIFIED, registry

    if recipe.base == "tiny" or find(Path(recipe.base)).is_dir():
        return recipe
    base, revision = recipe.base, recipe.revision
    if key := registry().find(base):
        model = registry().models[key]
        base = model.hub or key
        revision = revision or (None if model.revision == UNVERIFIED else model.revision)
    if revision is None and "/" in base:
        from tuneline.core.pins import pin_of

        revision = pin_of(base)
    return recipe.model_copy(update={"base": base, "revision": revision})


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
