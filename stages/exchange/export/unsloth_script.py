"""Train an adapter with Unsloth on rows that are token ids already; its settings are in settings.json beside it."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    """Write the adapter to output/adapter."""
    from unsloth import FastLanguageModel  # isort: skip  # before trl: it replaces parts of it
    from datasets import load_dataset
    from transformers import DataCollatorForSeq2Seq
    from trl import SFTConfig, SFTTrainer

    settings: dict[str, Any] = json.loads((HERE / "settings.json").read_text(encoding="utf-8"))
    model, tokenizer = FastLanguageModel.from_pretrained(**settings["model"])
    model = FastLanguageModel.get_peft_model(model, **settings["adapter"])
    files = {split: str(HERE / f"{split}.jsonl") for split in ("train", "validation")}
    rows: Any = load_dataset("json", data_files=files)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),  # pads labels so that they are not in the loss
        args=SFTConfig(**settings["trainer"]),
    )
    trainer.train()
    model.save_pretrained(HERE / "output/adapter")


if __name__ == "__main__":
    main()
