"""The model as it was trained, base and adapter unmerged, in transformers: what the files are held against."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneline.stages.convert.worker import Task

GPU_PARAMETERS = 15_000_000_000
"""A larger base is loaded on a GPU only."""
MEMORY_SHARE = 0.8
"""Of the free memory, so much may hold the weights."""
SMALL_PARAMETERS = 1_000_000_000
"""A smaller one computes in fp32."""


@dataclass(frozen=True)
class Talk:
    """A conversation, its last message the assistant's or the user's, and the tools it shows."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Up to where the assistant answers."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages


def own_talks(prepared: Path, names: tuple[str, ...], most: int) -> list[Talk]:
    """The run's own conversations, from its prepared files in this order."""
    from tuneline.stages.prepare import load_tools, read_prepared

    catalogue = load_tools(prepared)
    found: list[Talk] = []
    for file in (prepared / name for name in names):
        for row in read_prepared(file) if file.exists() and len(found) < most else ():
            if row.messages:
                found.append(Talk(row.chat(), catalogue.openai(row.tools) if catalogue and row.tools else None))
    return found[:most]


def own_tokenizer(task: "Task") -> Any:
    """The base's, with the tuned model's chat template."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(task.base, local_files_only=True)
    if task.template:
        tokenizer.chat_template = Path(task.template).read_text("utf-8")
    return tokenizer


def rendered(tokenizer: Any, talk: Talk, *, prompt: bool = False) -> str:
    """As it was learned; with `prompt`, up to where the assistant answers."""
    messages = talk.asked if prompt else talk.messages
    text: str = tokenizer.apply_chat_template(
        messages, tools=talk.tools, tokenize=False, add_generation_prompt=messages[-1]["role"] != "assistant"
    )
    return text


def too_large(base: Path) -> str | None:
    """Why this base cannot be run here with its adapter, if so."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return None
    parameters = _parameters(base)
    needed, there = parameters * (4 if parameters < SMALL_PARAMETERS else 2), psutil.virtual_memory().available
    if parameters > GPU_PARAMETERS:
        return f"{parameters / 1e9:.0f} B parameters with their adapter need a GPU"
    if needed > MEMORY_SHARE * there:
        return f"base and adapter need {needed / 1e9:.0f} GB of memory, and {there / 1e9:.0f} GB are free"
    return None


def tuned_model(base: Path, adapter: Path) -> Any:
    """Base and adapter, ready to answer, on a GPU if there is one."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype: Any = torch.float32 if computes_in(base) == "float32" else "auto"
    tuned: Any
    if json.loads((base / "config.json").read_text())["model_type"].startswith("llama4"):
        from tuneline.stages.train.model.llama4_experts import tuned_llama4

        tuned = tuned_llama4(base, adapter, dtype)
    else:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
        tuned = PeftModel.from_pretrained(model, str(adapter))
    return tuned.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def computes_in(base: Path) -> str:
    """What a model of this base is asked in: `float32`, or `auto` for its own type."""
    return "float32" if _parameters(base) < SMALL_PARAMETERS else "auto"


def _parameters(base: Path) -> int:
    return sum(file.stat().st_size for file in base.glob("*.safetensors")) // 2
