"""Fidelity of quantizations over all next tokens: perplexity, KL divergence from 16 bit, top-1 agreement with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.engines.llama_cpp.build import LlamaCpp
from tuneline.engines.llama_cpp.libllama import Gguf
from tuneline.stages.convert.folders.quantized_checkpoints import compute_logits
from tuneline.stages.convert.task import MERGED, Task
from tuneline.stages.convert.verification.check import Check

if TYPE_CHECKING:
    import numpy as np

POSITIONS = 256
"""Positions of checkpoints that are compared at a time; each has logits for the whole vocabulary."""
Fidelity = dict[str, Any]
"""The figures of one file, as `verify.json` has them."""


def measure_gguf_fidelity(
    llama: LlamaCpp,
    reference: Path,
    files: Sequence[Path],
    sequences: Sequence[list[int]],
    scratch: Path,
    threads: int,
) -> dict[str, Fidelity]:
    """Return the fidelity of GGUF files by stem, compared with `reference`, itself the first."""
    import numpy as np

    context, tokens = max(map(len, sequences)), sum(len(ids) - 1 for ids in sequences)
    fidelity: dict[str, Fidelity] = {}
    logprobs: np.memmap[Any, Any] | None = None
    for file in (reference, *(file for file in files if file != reference)):
        with Gguf(llama, file, context=context, threads=threads) as model:
            if logprobs is None:  # as large as text × vocabulary: on disk
                logprobs = np.memmap(scratch / "reference.f32", np.float32, "w+", shape=(tokens, model.vocabulary_size))
            fidelity[file.stem] = _compare_gguf(model, sequences, logprobs, is_reference=file == reference)
    for figures in fidelity.values():
        figures["perplexity_ratio"] = _perplexity_ratio(figures, fidelity[reference.stem])
    (scratch / "reference.f32").unlink()
    return fidelity


def _compare_gguf(
    model: Gguf, sequences: Sequence[list[int]], reference: "np.ndarray", *, is_reference: bool
) -> Fidelity:
    """Return the fidelity of one file. `reference` has the reference's log-probabilities, or is filled with them."""
    comparison, at = _Comparison(), 0
    for ids in sequences:
        logprobs, rows = _log_softmax(model.logits(ids)[:-1]), slice(at, at + len(ids) - 1)
        if is_reference:
            reference[rows] = logprobs
        comparison.add(logprobs, reference[rows], ids[1:])
        at += len(logprobs)
    return comparison.summarize()


def measure_checkpoint_fidelity(task: Task, sequences: Sequence[list[int]]) -> dict[str, Fidelity]:
    """Return the fidelity of quantized checkpoints by folder name, compared with the merged one."""
    import numpy as np

    if not task.quantized_checkpoints:
        return {}
    assert task.merged
    tokens = np.concatenate([ids[1:] for ids in sequences])
    fidelity: dict[str, Fidelity] = {}
    reference: np.ndarray | None = None
    for folder in (task.merged, *task.quantized_checkpoints.values()):
        file = compute_logits(folder, task.base, sequences, task.scratch)
        logits: np.ndarray = np.memmap(file, np.float32, "r").reshape(len(tokens), -1)
        reference = logits if reference is None else reference
        comparison = _Comparison()
        for at in range(0, len(tokens), POSITIONS):
            rows = slice(at, at + POSITIONS)
            comparison.add(_log_softmax(logits[rows]), _log_softmax(reference[rows]), tokens[rows])
        figures = comparison.summarize()
        fidelity[MERGED if folder == task.merged else folder.name] = figures
        figures["perplexity_ratio"] = _perplexity_ratio(figures, fidelity[MERGED])
    return fidelity


def check_fidelity(file: str, figures: Mapping[str, Any], floor: float) -> Check:
    """Check that the top-1 agreement is not below `floor`, and that all figures are finite."""
    passed = figures["finite"] and figures["top_1_agreement"] >= floor
    agreement = f"top-1 agreement {figures['top_1_agreement']:.1%} over {figures['tokens']} tokens"
    detail = f"{agreement}, at least {floor:.0%} required" if figures["finite"] else "its outputs are not finite"
    return Check("fidelity", file, passed, detail)


class _Comparison:
    """Log-probabilities of a model compared with those of its reference."""

    def __init__(self) -> None:
        self._losses: list[np.ndarray] = []
        self._divergences: list[np.ndarray] = []
        self._agreed = 0

    def add(self, logprobs: "np.ndarray", reference: "np.ndarray", tokens: "Sequence[int] | np.ndarray") -> None:
        """Compare some positions, both [positions, vocabulary], where `tokens` come next."""
        import numpy as np

        self._losses.append(-logprobs[np.arange(len(logprobs)), tokens])
        self._divergences.append((np.exp(reference) * (reference - logprobs)).sum(1))
        self._agreed += int((reference.argmax(1) == logprobs.argmax(1)).sum())

    def summarize(self) -> Fidelity:
        import numpy as np

        losses, divergences = np.concatenate(self._losses), np.concatenate(self._divergences)
        return {
            "perplexity": round(float(np.exp(losses.mean())), 4),
            "kl_mean_nats": round(max(0.0, float(divergences.mean())), 6),
            "kl_p99_nats": round(max(0.0, float(np.quantile(divergences, 0.99))), 6),
            "top_1_agreement": round(self._agreed / len(losses), 4),
            "tokens": len(losses),
            "finite": bool(np.isfinite(losses).all() and np.isfinite(divergences).all()),
        }


def _perplexity_ratio(figures: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    ratio: float = round(figures["perplexity"] / reference["perplexity"], 4)
    return ratio


def _log_softmax(logits: "np.ndarray") -> "np.ndarray":
    import numpy as np

    shifted = logits - logits.max(1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
