"""A model's server in a container: the arguments of vLLM or llama.cpp, and the files that it reads beside the model.

Inside a container a server binds to all addresses and demands a key: its network is the container's own.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tuneline.core.errors import BadRecipe, NotFound
from tuneline.engines.vllm.lora_ranks import smallest_max_lora_rank
from tuneline.engines.vllm.tool_parsers import LLAMA_4, tool_parser_for
from tuneline.publish.run_files import list_files, list_stage_files
from tuneline.publish.target import Publication
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare.prepared_run import STOP_TOKENS, TEMPLATE

IMAGES = {"vllm": "vllm/vllm-openai:v0.32.0", "llama.cpp": "ghcr.io/ggml-org/llama.cpp:server"}
"""By engine; vLLM's is the version that evaluation uses."""
PORT = 8000
WORKER_NAMES = {"--revision": "MODEL_REVISION", "--served-model-name": "OPENAI_SERVED_MODEL_NAME_OVERRIDE"}
"""Arguments of vLLM that RunPod's worker calls otherwise."""
FILES_FOLDER = "/etc/tuneline"
"""Where a container has `ContainerServer.files`."""
KEY_VARIABLES = {"vllm": "VLLM_API_KEY", "llama.cpp": "LLAMA_API_KEY"}
"""Variable in which each engine reads the key that it demands."""


@dataclass(frozen=True)
class Location:
    """Where a container finds the model's files."""

    base: list[str]
    """vLLM's arguments for the base."""
    adapter: str
    merged: str
    gguf: list[str]
    """llama-server's arguments for the GGUF file."""


@dataclass(frozen=True)
class ContainerServer:
    """A server as a container runs it."""

    engine: str
    image: str
    arguments: list[str]
    files: dict[str, str] = field(default_factory=dict)
    """Name → text of what is in `FILES_FOLDER`."""

    @property
    def key_variable(self) -> str:
        """The variable in which it reads the key that it demands."""
        return KEY_VARIABLES[self.engine]


def form_of(publication: Publication) -> str:
    """Return what is served: adapter, merged or gguf."""
    return str(publication.settings.form or publication.recipe.serve.form)


def gguf_name(publication: Publication) -> str:
    """Return the name of the GGUF file that is served."""
    return f"tuned-{publication.settings.type or publication.recipe.serve.type}.gguf"


def to_worker_variables(arguments: list[str]) -> dict[str, str]:
    """Return vLLM's arguments as the variables of RunPod's worker: `--max-model-len 8` is MAX_MODEL_LEN.

    Its address is the worker's own. Its page (github.com/runpod-workers/worker-vllm, docs/configuration.md, 2026-11-30)
    has LORA_MODULES as a list in JSON, which vLLM's parser refuses; as it is passed on, `name=path` is right.
    """
    variables, words = {"MODEL_NAME": arguments[0]}, arguments[1:]
    for number, word in enumerate(words):
        if not word.startswith("--"):
            continue
        value = words[number + 1] if number + 1 < len(words) and not words[number + 1].startswith("--") else "true"
        variables[WORKER_NAMES.get(word) or word.lstrip("-").replace("-", "_").upper()] = value
    return {name: value for name, value in variables.items() if name not in ("HOST", "PORT")}


def model_name(publication: Publication) -> str:
    """Return the model's name in requests: the run's, in the letters that every host takes."""
    return re.sub(r"[^a-z0-9-]+", "-", publication.run.name.lower()).strip("-") or "model"


def describe_server(publication: Publication, location: Location) -> ContainerServer:
    """Return the server of the run's model.

    Raises:
        NotFound: the run lacks the form. BadRecipe: vLLM cannot serve it from an unchanged base.
    """
    form = form_of(publication)
    if form == "gguf":
        _refuse_missing_gguf(publication)
        image = publication.settings.image or IMAGES["llama.cpp"]
        return ContainerServer("llama.cpp", image, _llama_arguments(publication, location))
    list_files(publication.run, publication.recipe, "adapter" if form == "adapter" else "merged")
    arguments, files = _vllm_arguments(publication, location, form)
    return ContainerServer("vllm", publication.settings.image or IMAGES["vllm"], arguments, files)


def _refuse_missing_gguf(publication: Publication) -> None:
    if not list_stage_files(publication.run, "convert", gguf_name(publication)):
        raise NotFound(f"publish.{publication.target}.type: {gguf_name(publication)} was not made; see convert.types")


def _llama_arguments(publication: Publication, location: Location) -> list[str]:
    slots, context = publication.settings.slots, publication.recipe.serve.context
    return [
        *location.gguf,
        *("--alias", model_name(publication), "--host", "0.0.0.0", "--port", str(PORT)),
        *("--ctx-size", str(slots * context), "--parallel", str(slots), "--threads", str(publication.settings.cores)),
        *("--cors-origins", "localhost", "--no-cors-credentials", "--jinja", "--metrics", "--no-webui"),
    ]


def _vllm_arguments(publication: Publication, location: Location, form: str) -> tuple[list[str], dict[str, str]]:
    name, files = model_name(publication), dict[str, str]()
    if form == "merged":
        arguments = [location.merged, "--served-model-name", name]
    else:
        if list_stage_files(publication.run, "prepare", STOP_TOKENS):
            raise BadRecipe(
                f"publish.{publication.target}.form: adapter: this model ends turns where its base does not stop: "
                "publish it merged or as gguf"
            )
        rank = smallest_max_lora_rank(publication.run / "train/adapter")
        arguments = [
            *location.base,
            "--served-model-name",
            f"{name}-base",
            "--enable-lora",
            "--max-lora-rank",
            str(rank),
        ]
        arguments += ["--lora-modules", f"{name}={location.adapter}"]
    arguments += ["--host", "0.0.0.0", "--port", str(PORT), "--max-model-len", str(publication.recipe.serve.context)]
    arguments += ["--tensor-parallel-size", str(publication.settings.gpus), "--enable-prefix-caching"]
    template = _read_template(publication)
    if template and form == "adapter":
        files[TEMPLATE] = template
        arguments += ["--chat-template", f"{FILES_FOLDER}/{TEMPLATE}"]
    return arguments + _tool_arguments(publication, template), files


def _read_template(publication: Publication) -> str | None:
    files = list_stage_files(publication.run, "prepare", TEMPLATE)
    return files[0].path.read_text("utf-8") if files else None


def _tool_arguments(publication: Publication, template: str | None) -> list[str]:
    """Return vLLM's parser of tool calls; none for Llama 4, whose parser is Tuneline's own and not in the image."""
    try:
        folder = open_base(publication.recipe).path
    except NotFound:
        folder = Path("/nonexistent")  # the base is no longer on this machine; models.yaml may know its parser
    parser = tool_parser_for(publication.recipe.base, folder, template)
    return [] if parser in (None, LLAMA_4) else ["--enable-auto-tool-choice", "--tool-call-parser", str(parser)]
