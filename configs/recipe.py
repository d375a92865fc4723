"""The recipe: every decision that shapes a model. A YAML file states only what differs from the defaults here.

A recipe says what, not where: `publish`, `compute` and `watch`, and nothing else, are left out of every fingerprint.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from tuneline.configs.compute import Compute, fill_in_hardware
from tuneline.configs.data import Data
from tuneline.configs.evaluation import Evaluate
from tuneline.configs.file_hashes import hash_paths
from tuneline.configs.publish import GgufType, Publish
from tuneline.configs.section import WITH_CREDENTIALS, Section
from tuneline.configs.training import Train, Watch
from tuneline.configs.user_paths import locate, locate_folder
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import RECIPE as RECIPE

TEMPLATES_FOLDER = Path(__file__).parent / "templates"
HERMES = "hermes"
"""The template that adds tools to the base's own."""
TEMPLATE_ALIASES = {"llama-3": "llama-3.1", "llama-3.3": "llama-3.1", "llama2": "llama-2"}
FolderType = Literal["AWQ", "GPTQ", "INT8", "FP8", "NF4", "LLM.int8", "ONNX", "TensorRT-LLM"]


class Convert(Section):
    """The files made from base and adapter."""

    types: tuple[GgufType, ...] = ("F16", "Q8_0", "Q4_K_M")
    """GGUF files of the tuned model; F16 is the 16-bit reference."""
    format: Literal["gguf", "safetensors"] = "gguf"
    """safetensors: a merged 16-bit checkpoint for vLLM, in addition to the GGUF files, which are what is evaluated."""
    folders: tuple[FolderType, ...] = ()
    """More checkpoints. AWQ, GPTQ, INT8, FP8: quantized by llmcompressor for vLLM. NF4, LLM.int8: by bitsandbytes
    for Transformers. ONNX is in fp32 for onnxruntime, TensorRT-LLM a folder in FP8 for trtllm-serve."""
    calibration_tokens: int = Field(65_536, ge=512)
    """Tokens of the run's own training text on which llmcompressor calibrates."""
    imatrix_tokens: int = Field(0, ge=0)
    """Tokens of the run's own training text for the importance matrix of low-bit types; 0 makes none."""
    verify_tokens: int = Field(2048, ge=64)
    """Tokens of the run's own text on which each quantized file is compared with the 16-bit one."""
    top_1_floor: float = Field(0.5, ge=0, le=1)
    """The stage fails if a quantized file chooses the 16-bit file's next token less often than this."""


class Serve(Section):
    """How the result is served; the form determines the engine."""

    form: Literal["gguf", "adapter", "merged"] = "gguf"
    """gguf: llama.cpp. adapter (on the base) and merged: vLLM."""
    type: GgufType = "Q4_K_M"
    """Which file answers when the form is gguf."""
    context: int = Field(2048, gt=0)
    """Longest request and answer together, in tokens."""


class Recipe(Section):
    """Every decision that shapes a model."""

    name: str = Field("", max_length=64)
    """The file's name by default; a run takes its recipe's name."""
    base: Annotated[str, BeforeValidator(locate_folder)] = "tiny"
    """A name of models.yaml (`tiny`, `llama-3.1-8b-instruct`, …), a hub id, or a local folder."""
    revision: str | None = None
    """Commit of the hub's repository; required for a hub id."""
    template: str | Path = ""
    """Chat template: a name of configs/templates (`hermes` adds tools to the base's own), or a .jinja file. Without it
    the base's own, or for a base without one the first of ours whose control tokens it has."""
    data: Data
    train: Train = Train()
    convert: Convert = Convert()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    publish: Publish = Publish()
    compute: Compute = Compute()
    watch: Watch = Watch()

    @field_validator("template", mode="plain", json_schema_input_type=str)  # in JSON a union would make "" a path
    @classmethod
    def _check_template(cls, template: Any) -> str | Path:
        if isinstance(template, Path):
            return template
        if not isinstance(template, str):
            raise ValueError("the name of a template, or a file that ends in .jinja")
        if template.endswith(".jinja"):
            return Path(locate(template))
        names = sorted({file.stem for file in TEMPLATES_FOLDER.glob("*.jinja")} | set(TEMPLATE_ALIASES))
        if template and template not in names:
            raise ValueError(f"{template!r}: a file that ends in .jinja, or one of {', '.join(names)}")
        return str(template)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_hardware(cls, raw: Any) -> Any:
        """What a stage runs on, unless it is stated, depends on the base and on the engine that serves."""
        if not isinstance(raw, dict) or not isinstance(raw.get("compute", {}), dict):
            return raw
        serve = raw.get("serve")
        form = serve.get("form") if isinstance(serve, dict) else getattr(serve, "form", None)
        return raw | {"compute": fill_in_hardware(raw.get("compute", {}), raw.get("base", "tiny"), form)}

    @model_validator(mode="after")
    def _served_type_is_made(self) -> Self:
        if self.serve.form == "gguf" and self.serve.type not in self.convert.types:
            raise ValueError(
                f"serve.type is {self.serve.type}, but convert.types only lists {', '.join(self.convert.types)}"
            )
        return self

    def to_json(self) -> str:
        """Return it for another process, with credentials; what is written is `model_dump_json`, which has none."""
        return self.model_dump_json(context=WITH_CREDENTIALS)

    def template_settings(self) -> dict[str, Any]:
        """Return the template as settings of the stages that use it; nothing for the base's own."""
        return {"template": hash_paths(self.template)} if self.template else {}

    def section(self, *names: str) -> dict[str, Any]:
        """Return the named sections as JSON-able settings, with each path replaced by the hash of its content."""
        return {name: hash_paths(getattr(self, name)) for name in names}


def recipe_of(run: Path) -> Recipe:
    """Return the recipe of the run in the folder `run`.

    Raises:
        FileNotFoundError: no stage has been run there. BadRecipe: its file is damaged.
    """
    try:
        return Recipe.model_validate_json((run / RECIPE).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        remedy = f"restore it with `tuneline run FILE --run {run.name}`, where FILE is the run's original recipe"
        raise BadRecipe(f"{run / RECIPE}: incomplete or damaged recipe: {reason}; {remedy}") from None
