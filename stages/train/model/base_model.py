"""The model to train: the base in the recipe's precision, and on it what is learned."""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training, set_peft_model_state_dict
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tuneline.configs.training import Train
from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.core.events import Events
from tuneline.stages.checkpoints.base_config import is_tied, read_config
from tuneline.stages.checkpoints.lora_adapter import WEIGHTS
from tuneline.stages.train.model.adapter_targets import SAVED, check, resolve
from tuneline.stages.train.model.parameter_count import count, refuse_unquantized

FLASH = "kernels-community/flash-attn2"
"""Baked into the training image."""
FIXED = ("r", "lora_alpha", "target_modules", "target_parameters", "modules_to_save")
"""What an adapter that is gone on from must have in common with the recipe."""


def load(settings: Train, base: Path, start: Path | None, events: Events, *, sharded: bool) -> PeftModel:
    """The adapted model, what was found and counted told as events; `start` is what `fill` will be given.

    Raises:
        BadRecipe: the base lacks a target, or `start` has other settings. StageFailed: it is not in 4 bit as it should.
    """
    kind = check(base, settings)
    model, prefix = _base(settings, base, kind, sharded=sharded)
    adapted = _adapted(settings, model, base, kind, start, events)
    if settings.method == "qlora":
        refuse_unquantized(adapted)
    adapted.stored_prefix = prefix  # type: ignore[assignment]  # what the adapter's names begin with when it is saved
    events.emit("note", text=f"parameters: {count(adapted)}")
    return adapted


def fill(model: PeftModel, adapter: Path, prefix: str) -> None:
    """Give `model` the weights of an adapter whose names have the checkpoint's `prefix`.

    Raises:
        StageFailed: it has weights that this model has no place for, or lacks some.
    """
    before, after = f"base_model.model.{prefix}", "base_model.model."
    weights = {after + name.removeprefix(before): w for name, w in load_file(adapter / WEIGHTS).items()}
    found: Any = set_peft_model_state_dict(model, weights)
    lacking = [name for name in found.missing_keys if "lora_" in name]
    if found.unexpected_keys or lacking:
        odd = (list(found.unexpected_keys) + lacking)[0]
        raise StageFailed(f"{adapter / WEIGHTS}: does not fit the base: {odd}; was it trained on another base?")


def _base(settings: Train, base: Path, kind: str, *, sharded: bool) -> tuple[PreTrainedModel, str]:
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32  # bf16 is slow on CPUs without AMX
    if settings.method == "full":
        dtype = torch.float32  # steps of a small learning rate vanish in bf16
    quantization = None
    if settings.method == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            # FSDP2 shards floats only: packed into bytes, the base would lie on every GPU whole.
            bnb_4bit_quant_storage=torch.bfloat16 if on_gpu or sharded else torch.uint8,
        )
    loading: Any = nullcontext()
    prefix, mixture = "", kind.startswith("llama4")
    if mixture:
        from tuneline.stages.train.model.llama4_experts import experts_of, linearized, stored_prefix
        from tuneline.stages.train.model.sparse_experts import use_sparse_experts

        prefix = stored_prefix(base)
        if settings.method == "qlora" or "experts" in settings.targets:
            loading = linearized(experts_of(base))
    with loading:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=dtype,
            quantization_config=quantization,
            attn_implementation=_attention(settings, mixture=mixture),
            local_files_only=True,
            use_safetensors=True,
        )
    if mixture:
        use_sparse_experts(model)
        model.base_model_prefix = "model"  # what it is called here; TRL looks for the layers under this name
    if quantization:
        never_repack(model)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the trainer's choice
    return model, prefix


def never_repack(model: torch.nn.Module) -> None:
    """Keep every 4-bit layer in the format it was loaded in, whatever the processor.

    On processors with AVX512-BF16, bitsandbytes 0.50 rewrites a layer's weights for a bf16 kernel at the first pass
    without gradients (`Linear4bit.forward`) and keeps them so. Training after a validation then computes something
    else than before it, and shapes the kernel cannot pack raise.
    """
    from bitsandbytes.nn import Linear4bit  # only for qlora: convert's image, which imports this file, lacks it

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _attention(settings: Train, *, mixture: bool) -> str | None:
    """Packed rows need kernels that know where each ends; Llama 4's chunks are not computed right by this one."""
    there = torch.cuda.is_available() and find_spec("kernels") is not None
    return FLASH if settings.packing and there and not mixture else None


def _adapted(
    settings: Train, model: PreTrainedModel, base: Path, kind: str, start: Path | None, events: Events
) -> PeftModel:
    if settings.method == "full":
        modules: Any = DUMMY_TARGET_MODULES
        parameters, saved = None, _leaves(model, tied=is_tied(read_config(base)), events=events)
    else:
        found = resolve(kind, settings.targets, dict(model.named_modules()), dict(model.named_parameters()))
        told = ", ".join(f"{name} {number}" for name, number in found.found.items())
        events.emit("note", text=f"adapters in a {kind}: {told}")
        modules, parameters = found.modules, found.parameters
        saved = [SAVED[name] for name in settings.modules_to_save]
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules,
        target_parameters=parameters,
        modules_to_save=saved or None,
        task_type="CAUSAL_LM",
    )
    if start:
        _refuse_another(lora, start, settings)
    adapted = get_peft_model(model, lora)
    assert isinstance(adapted, PeftModel)
    return adapted


def _leaves(model: PreTrainedModel, *, tied: bool, events: Events) -> list[str]:
    """Last names of all modules that have weights of their own; a tied embedding cannot be replaced exactly."""
    names = {
        name.rpartition(".")[2] for name, module in model.named_modules() if list(module.parameters(recurse=False))
    }
    if tied:
        names -= set(SAVED.values())
        events.emit("note", text="method full: input and output embeddings are one matrix here, which stays as it is")
    return sorted(names)


def _refuse_another(ours: LoraConfig, start: Path, settings: Train) -> None:
    theirs = LoraConfig.from_pretrained(str(start))
    for key in FIXED:
        mine, other = (_comparable(getattr(config, key)) for config in (ours, theirs))
        if mine != other:
            raise BadRecipe(
                f"train.init_from: {settings.init_from}: its adapter has {key} {other!r}, this recipe {mine!r}; "
                "make them equal, or leave init_from out"
            )


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | tuple | set) else value
