"""A script for the environment `compress`: quantizes a 16-bit checkpoint, or writes the logits of any checkpoint.

    python -P compressor.py '{"model": FOLDER, "kind": "AWQ", "texts": IDS, "out": FOLDER}'
    python -P compressor.py '{"model": FOLDER, "texts": IDS, "logits": FILE, "dtype": "float32"}'

IDS is a JSON file: a list of token ids for each text. The logits are computed in `dtype`. AWQ, GPTQ, INT8 and FP8 are
made by llmcompressor, in the format that vLLM loads; NF4 and LLM.int8 by bitsandbytes, for Transformers. Nothing of
Tuneline is imported here: this environment has other packages.
"""

import json
import sys
from pathlib import Path
from typing import Any

IGNORED = ["lm_head", "re:.*router.*", "re:.*gate$", "re:.*vision.*", "re:.*multi_modal_projector.*"]
"""Kept in 16 bit: the output, the routers of experts, the vision part."""


def main() -> None:
    task: dict[str, Any] = json.loads(sys.argv[1])
    texts: list[list[int]] = json.loads(Path(task["texts"]).read_text(encoding="utf-8"))
    if "logits" in task:
        write_logits(task["model"], task["dtype"], texts, task["logits"])
    elif task["kind"] in ("NF4", "LLM.int8"):
        quantize_with_bitsandbytes(task["model"], task["kind"], task["out"])
    else:
        quantize_with_llmcompressor(task["model"], task["kind"], texts, task["out"])


def quantize_with_llmcompressor(model: str, kind: str, texts: list[list[int]], out: str) -> None:
    """Quantize with calibration on `texts`, a layer at a time."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto", local_files_only=True)
    dtype = loaded.dtype
    if not torch.accelerator.is_available():
        loaded = loaded.float()  # most CPUs have no arithmetic in 16 bit
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in texts]
    oneshot(
        model=loaded,
        dataset=Dataset.from_list(rows),
        recipe=make_modifiers(kind),
        num_calibration_samples=len(rows),
        max_seq_length=max(map(len, texts)),
        shuffle_calibration_samples=False,
        pipeline="sequential",
    )
    loaded.to(dtype).save_pretrained(out, save_compressed=True)


def make_modifiers(kind: str) -> list[Any]:
    """Return llmcompressor's recipe: 4-bit weights in groups of 128, or weights and activations of 8 bits."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    linears: dict[str, Any] = {"targets": ["Linear"], "ignore": IGNORED}
    if kind == "AWQ":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        _avoid_pinned_memory_without_gpu()
        return [AWQModifier(), QuantizationModifier(scheme="W4A16_ASYM", **linears)]
    if kind == "GPTQ":
        return [GPTQModifier(scheme="W4A16", **linears)]
    if kind == "INT8":
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

        return [SmoothQuantModifier(smoothing_strength=0.8), GPTQModifier(scheme="W8A8", **linears)]
    return [QuantizationModifier(scheme=kind, **linears)]


def _avoid_pinned_memory_without_gpu() -> None:
    """Let AWQ keep values between layers in pageable memory: torch refuses to pin memory on a machine without a GPU."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *args, **kwargs: None


def quantize_with_bitsandbytes(model: str, kind: str, out: str) -> None:
    """Quantize to NF4 with double quantization, or else to LLM.int8; neither needs calibration."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings: Any
    if kind == "NF4":
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    else:
        settings = BitsAndBytesConfig(load_in_8bit=True)
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype="auto", quantization_config=settings, local_files_only=True
    )
    loaded.save_pretrained(out)


def write_logits(model: str, dtype: str, texts: list[list[int]], file: str) -> None:
    """Write the logits of each token but the last of each text, one text after the other, fp32 [tokens, vocabulary]."""
    import torch
    from transformers import AutoModelForCausalLM

    device_map = "auto" if torch.cuda.is_available() else None
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map=device_map, local_files_only=True)
    for module in loaded.modules():
        # On AVX512-BF16 bitsandbytes would compute with repacked weights in bf16: other logits than elsewhere.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with Path(file).open("wb") as out, torch.inference_mode():
        for ids in texts:
            logits = loaded.eval()(torch.tensor([ids], device=loaded.device)).logits[0, :-1]
            logits.float().cpu().contiguous().numpy().tofile(out)


if __name__ == "__main__":
    main()
