"""The model to train: the base in the recipe's precision, with LoRA layers on it."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tuneline.configs.training import Train
from tuneline.core.errors import BadRecipe
from tuneline.core.events import Events
from tuneline.stages.checkpoints.base_config import is_tied, read_config
from tuneline.stages.train.distributed.process_group import get_device, get_world_size
from tuneline.stages.train.distributed.shared_loading import share_reading
from tuneline.stages.train.model.adapter_targets import ROUTER, SAVED_MODULES, check_trainable, resolve_targets
from tuneline.stages.train.model.flash_attention import register_packed_attention
from tuneline.stages.train.model.parameter_count import count_parameters, refuse_unquantized

EQUAL_SETTINGS = ("r", "lora_alpha", "target_modules", "target_parameters", "modules_to_save")
"""Settings that `train.init_from`'s adapter must have in common with the recipe."""


def load_model(settings: Train, base: Path, start: Path | None, events: Events, *, sharded: bool) -> PeftModel:
    """Return the base with new LoRA layers; adapted modules and parameter counts are emitted as notes.

    `start` is the adapter to continue from. Its settings are checked here; its weights are not loaded.

    Raises:
        BadRecipe: the base lacks a target, or `start` has other settings.
        StageFailed: the method is qlora and a matrix is not in 4 bit.
    """
    model_type = check_trainable(base, settings)
    loaded = _load_base(settings, base, model_type, events, sharded=sharded)
    adapted = add_adapter(settings, loaded.model, base, model_type, start, events)
    if settings.method == "qlora":
        refuse_unquantized(adapted)
    adapted.checkpoint_prefix = loaded.prefix  # type: ignore[assignment]  # put before weight names when it is saved
    events.emit("note", text=f"parameters: {count_parameters(adapted)}")
    return adapted


@dataclass(frozen=True)
class _Loaded:
    model: PreTrainedModel
    prefix: str
    """What the checkpoint puts before the language model's weight names, and the loaded model does not."""


def _load_base(settings: Train, base: Path, model_type: str, events: Events, *, sharded: bool) -> _Loaded:
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32  # bf16 is slow on CPUs without AMX
    if settings.method == "full":
        dtype = torch.float32  # steps of a small learning rate vanish in bf16
    quantization = _build_quantization(dtype, sharded=sharded) if settings.method == "qlora" else None
    mixture = model_type.startswith("llama4")
    loading: Any = nullcontext()
    prefix = ""
    if mixture:
        from tuneline.stages.train.model.llama4_experts import count_experts, linearize_experts, read_checkpoint_prefix

        prefix = read_checkpoint_prefix(base)
        if settings.method == "qlora" or "experts" in settings.targets:
            loading = linearize_experts(count_experts(base))
    # PEFT adapts a router as a Parameter, whose shape it reads.
    reading = share_reading(sharded=sharded, whole=ROUTER) if get_world_size() > 1 else nullcontext()
    with loading, reading:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": "cpu" if sharded else get_device()},  # of a shard, share_reading decides
            attn_implementation=_choose_attention(settings, events, mixture=mixture),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    model: PreTrainedModel = loaded[0]
    _refuse_incomplete(base, loaded[1])
    if mixture:
        from tuneline.stages.train.model.sparse_experts import use_sparse_experts

        use_sparse_experts(model)
        model.base_model_prefix = "model"  # its name in this class; TRL looks for the layers under this attribute
    if quantization:
        prevent_repacking(model)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the trainer's choice
    return _Loaded(model, prefix)


def _refuse_incomplete(base: Path, report: Mapping[str, Any]) -> None:
    """Raise BadRecipe if weights of the model were not in the files: transformers makes them up at random."""
    for key, problem in (("missing_keys", "is missing"), ("mismatched_keys", "has another shape")):
        if names := sorted(map(str, report[key])):
            raise BadRecipe(
                f"{base}: {names[0]} {problem} ({len(names)} in all): it would be trained from random numbers"
            )


def _build_quantization(dtype: torch.dtype, *, sharded: bool) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # FSDP2 shards floats only: stored as bytes, the base would be on every GPU whole.
        bnb_4bit_quant_storage=torch.bfloat16 if torch.cuda.is_available() or sharded else torch.uint8,
    )


def prevent_repacking(model: torch.nn.Module) -> None:
    """Keep every 4-bit layer in the format it was loaded in, on any processor.

    On processors with AVX512-BF16, bitsandbytes 0.50 rewrites a layer's weights for a bf16 kernel at the first pass
    without gradients (`Linear4bit.forward`) and keeps them so. Training after a validation then computes something
    else than before it, and shapes the kernel cannot pack raise.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _choose_attention(settings: Train, events: Events, *, mixture: bool) -> str | None:
    """Return FlashAttention for packed rows on a GPU; None for the default.

    Llama 4's chunked attention is not computed correctly by it.
    """
    packed_on_gpu = settings.packing and torch.cuda.is_available() and not mixture
    return register_packed_attention(events) if packed_on_gpu else None


def add_adapter(
    settings: Train, model: PreTrainedModel, base: Path, model_type: str, start: Path | None, events: Events
) -> PeftModel:
    """Return `model` with new LoRA layers on the recipe's targets; with method full, with all weights trainable.

    Raises:
        BadRecipe: the model lacks a target, or the adapter in `start` has other settings.
    """
    if settings.method == "full":
        modules: Any = DUMMY_TARGET_MODULES
        parameters, saved = None, _list_modules_with_weights(model, tied=is_tied(read_config(base)), events=events)
    else:
        targets = resolve_targets(
            model_type, settings.targets, dict(model.named_modules()), dict(model.named_parameters())
        )
        counts = ", ".join(f"{name} {number}" for name, number in targets.counts.items())
        events.emit("note", text=f"adapters in a {model_type}: {counts}")
        modules, parameters = targets.modules, targets.parameters
        saved = [SAVED_MODULES[name] for name in settings.modules_to_save]
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
        _refuse_other_settings(lora, start, settings)
    adapted = get_peft_model(model, lora)
    assert isinstance(adapted, PeftModel)
    return adapted


def _list_modules_with_weights(model: PreTrainedModel, *, tied: bool, events: Events) -> list[str]:
    """Return the last names of all modules with weights of their own; tied embeddings cannot be replaced exactly."""
    names = {
        name.rpartition(".")[2] for name, module in model.named_modules() if list(module.parameters(recurse=False))
    }
    if tied:
        names -= set(SAVED_MODULES.values())
        events.emit(
            "note", text="method full: input and output embeddings are one matrix in this base, which is not trained"
        )
    return sorted(names)


def _refuse_other_settings(recipe_lora: LoraConfig, start: Path, settings: Train) -> None:
    start_lora = LoraConfig.from_pretrained(str(start))
    for key in EQUAL_SETTINGS:
        expected, actual = (_sort_collection(getattr(config, key)) for config in (recipe_lora, start_lora))
        if expected != actual:
            raise BadRecipe(
                f"train.init_from: {settings.init_from}: its adapter has {key} {actual!r}, this recipe {expected!r}; "
                "make them equal, or remove init_from"
            )


def _sort_collection(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | tuple | set) else value
