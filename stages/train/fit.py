"""The training itself: TRL's SFTTrainer on rows that are rendered and masked by us."""

import json
import math
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, PrinterCallback
from transformers.trainer_utils import set_seed
from trl import SFTConfig

from configs.recipe import Recipe, Train
from stages import artifact
from stages.errors import StageFailed
from stages.events import Events
from stages.prepare import load_tools, read_prepared
from stages.prepare.render import Renderer
from stages.train.callbacks import Checkpoints, Report, StopOnSignal
from stages.train.checkpoints import newest_whole
from stages.train.loss import IGNORED, LearnedTokens

TARGETS = {
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
}
"""Module names of each meaning in Llama's and Mistral's code."""

CHECKPOINTS_KEPT = 2
LAST_STEPS = 10


def fit(recipe: Recipe, base: Path, prepared: Path, folder: Path, events: Events) -> dict[str, float]:
    """Train to the end, from the newest whole checkpoint if there is one; the adapter lies in `folder/adapter`.

    Returns train_loss (of the last steps) and validation_loss, both in nats per learned token,
    perplexity, steps, epochs, and how many parameters there are and are trained.

    Raises:
        StageFailed: stopped by SIGTERM, after a checkpoint.
    """
    torch.set_num_threads(recipe.compute.threads or len(os.sched_getaffinity(0)))
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # A debugging aid that took 29 % of a step on the CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    set_seed(recipe.train.seed)
    renderer = Renderer(base, load_tools(prepared))
    rows = {name: _dataset(renderer, prepared / f"{name}.jsonl") for name in ("train", "validation")}
    model = _adapted(recipe, base)
    scratch = folder / artifact.SCRATCH
    stop = StopOnSignal()
    trainer = LearnedTokens(
        model=model,
        args=_arguments(recipe, scratch / "checkpoints", len(rows["train"])),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=renderer.tokenizer,
        callbacks=[Report(events), Checkpoints(events), stop],
    )
    trainer.remove_callback(PrinterCallback)
    _train_in_fp32(model)
    if recipe.train.lora_plus > 1:
        trainer.optimizer = _lora_plus(model, recipe.train)
    trained, total = model.get_nb_trainable_parameters()
    checkpoint = newest_whole(scratch / "checkpoints", events)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step = trainer.state.global_step
    if stop.stopped and step < trainer.state.max_steps:
        raise StageFailed(f"stopped by SIGTERM at step {step}, after a checkpoint; the same command goes on from there")
    validation_loss = trainer.evaluate()["eval_loss"]
    _save(model, recipe, folder)
    return {
        "train_loss": statistics.mean(_losses(trainer)[-LAST_STEPS:]),
        "validation_loss": validation_loss,
        "perplexity": math.exp(validation_loss),
        "steps": step,
        "epochs": round(trainer.state.epoch or 0, 3),
        "parameters_trained": trained,
        "parameters_total": total,
    }


def _losses(trainer: LearnedTokens) -> list[float]:
    """Of every step, those before a resume too; the trainer's own mean forgets them."""
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def _dataset(renderer: Renderer, file: Path) -> Dataset:
    rendered = [renderer(row) for row in read_prepared(file)]
    labels = [[i if learned else IGNORED for i, learned in zip(r.ids, r.mask, strict=True)] for r in rendered]
    return Dataset.from_dict({"input_ids": [r.ids for r in rendered], "labels": labels})


def _adapted(recipe: Recipe, base: Path) -> PeftModel:
    settings = recipe.train
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32  # bf16 is slow on CPUs without AMX
    quantization = None
    if settings.method == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype if torch.cuda.is_available() else torch.uint8,
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, quantization_config=quantization, local_files_only=True, use_safetensors=True
    )
    if quantization:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the trainer's choice
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=[name for target in settings.targets for name in TARGETS[target]],
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
    assert isinstance(adapted, PeftModel)
    return adapted


def _lora_plus(model: PeftModel, settings: Train) -> torch.optim.Optimizer:
    """The optimizer the trainer would make, with a higher learning rate for the adapter's B."""
    kind: Any = torch.optim.AdamW
    if torch.cuda.is_available():
        from bitsandbytes.optim import PagedAdamW8bit

        kind = PagedAdamW8bit
    return create_loraplus_optimizer(
        model,
        optimizer_cls=kind,
        lr=settings.learning_rate,
        loraplus_lr_ratio=settings.lora_plus,
        weight_decay=settings.weight_decay,
    )


def _train_in_fp32(model: PeftModel) -> None:
    """TRL casts a QLoRA adapter to bf16, while PEFT loads a checkpoint's in fp32: a resumed run would differ."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _arguments(recipe: Recipe, output: Path, rows: int) -> SFTConfig:
    settings, on_gpu = recipe.train, torch.cuda.is_available()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro = recipe.compute.micro_batch_rows or (min(settings.batch_rows, 8) if on_gpu else settings.batch_rows)
    accumulation = max(1, round(settings.batch_rows / (micro * world)))
    epoch_steps = math.ceil(rows / settings.batch_rows)
    return SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        max_steps=settings.max_steps or math.ceil(settings.epochs * epoch_steps),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        optim="paged_adamw_8bit" if on_gpu else "adamw_torch",
        bf16=on_gpu,
        tf32=on_gpu or None,
        use_cpu=not on_gpu,
        max_length=None,  # `prepare` has left out what is too long; nothing is cut here
        activation_checkpointing=on_gpu,
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=0,
        save_steps=settings.save_steps,
        save_total_limit=CHECKPOINTS_KEPT,
        eval_strategy="steps",
        eval_steps=settings.evaluate_steps,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
    )


def _save(model: PeftModel, recipe: Recipe, folder: Path) -> None:
    temporary = folder / artifact.SCRATCH / "adapter"
    # A path of this machine has no place in a published adapter.
    for config in model.peft_config.values():
        config.base_model_name_or_path = recipe.base
        config.revision = recipe.revision
    model.save_pretrained(str(temporary), save_embedding_layers=False)  # else PEFT asks the hub
    config_file = temporary / "adapter_config.json"
    config = json.loads(config_file.read_text())
    ordered = {key: sorted(value) if key == "target_modules" else value for key, value in config.items()}
    config_file.write_text(json.dumps(ordered, indent=1, sort_keys=True))  # PEFT writes a set, in any order
    (temporary / "README.md").unlink(missing_ok=True)  # PEFT's is an empty form; the model card comes from evaluate
    shutil.rmtree(folder / "adapter", ignore_errors=True)  # of an attempt that ended before its manifest
    temporary.replace(folder / "adapter")
