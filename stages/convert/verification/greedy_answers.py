"""Greedy answers of the tuned model, compared token by token with those of the files made of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.engines.llama_cpp.build import LlamaCpp
from tuneline.engines.llama_cpp.libllama import Gguf
from tuneline.stages.convert.folders import onnx
from tuneline.stages.convert.folders.quantized_checkpoints import compute_logits
from tuneline.stages.convert.reference_model import explain_too_large, load_tuned_model
from tuneline.stages.convert.task import Task
from tuneline.stages.convert.verification.check import Check
from tuneline.stages.convert.verification.samples import Samples
from tuneline.stages.prepare.rendering.stop_tokens import stop_token_ids

if TYPE_CHECKING:
    import numpy as np

PROMPTS, ANSWER_TOKENS = 8, 24
CLEAR_NATS = 0.05
"""By so much the reference must prefer its token for another one to count as a difference: merging rounds."""


def check_gguf_answers(task: Task, llama: LlamaCpp, file: Path, samples: Samples) -> Check | str:
    """Compare a GGUF with the answers of base and adapter, unmerged; return why not if they are too large to run.

    A difference is no fault of the file: rounding the sum of weight and update decides some tokens otherwise.
    """
    import numpy as np

    if reason := explain_too_large(task.base):
        return f"greedy: {reason}"
    assert task.adapter
    model, stops = load_tuned_model(task.base, task.adapter), stop_token_ids(samples.tokenizer)
    prompts = samples.prompts(PROMPTS)
    different: list[str] = []
    compared = 0
    with Gguf(llama, file, context=max(map(len, prompts)) + ANSWER_TOKENS, threads=task.threads) as merged:
        for prompt in prompts:
            ids, logits = _generate(model, prompt, stops)
            choices = merged.logits(ids)[len(prompt) - 1 : -1].argmax(1)
            answer = np.array(ids[len(prompt) :])
            margin = logits[np.arange(len(answer)), answer] - logits[np.arange(len(answer)), choices]
            compared += len(answer)
            different += [samples.tokenizer.decode(ids)[-80:]] if (margin > CLEAR_NATS).any() else []
    detail = f"{compared} tokens of {len(prompts)} answers"
    if different:
        detail += f"; {len(different)} answers differ from the adapter's, the first: …{different[0]!r}"
    return Check("greedy", file.name, not different, detail, is_required=False)


def _generate(model: Any, prompt: Sequence[int], stops: Sequence[int]) -> tuple[list[int], "np.ndarray"]:
    """Return the prompt with the model's greedy answer, and the logits of each answered token, [tokens, vocabulary]."""
    import torch

    with torch.inference_mode():
        output = model.generate(
            torch.tensor([prompt], device=model.device),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long, device=model.device),
            do_sample=False,
            max_new_tokens=ANSWER_TOKENS,
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
        logits = model(output).logits[0, len(prompt) - 1 : -1].float().cpu().numpy()
    return output[0].tolist(), logits


def check_onnx_answers(task: Task, folder: Path, samples: Samples) -> Check:
    """Compare the answers of onnxruntime with the merged checkpoint."""
    import numpy as np

    assert task.merged
    prompts = samples.prompts(PROMPTS)
    answers = onnx.generate_answers(folder, prompts, stop_token_ids(samples.tokenizer), ANSWER_TOKENS, task.scratch)
    file = compute_logits(task.merged, task.base, answers, task.scratch)
    logits: np.ndarray = np.memmap(file, np.float32, "r").reshape(sum(len(ids) - 1 for ids in answers), -1)
    at, different, compared = 0, 0, 0
    for prompt, ids in zip(prompts, answers, strict=True):
        reference, answer = logits[at + len(prompt) - 1 : at + len(ids) - 1], np.array(ids[len(prompt) :])
        margin = reference.max(1) - reference[np.arange(len(answer)), answer]
        different += bool((margin > CLEAR_NATS).any())
        compared, at = compared + len(answer), at + len(ids) - 1
    detail = (
        f"{compared} tokens of {len(prompts)} answers of onnxruntime; {different} differ from the merged checkpoint's"
    )
    return Check("greedy", folder.name, not different, detail)
