"""Reads an exported folder with LLaMA-Factory's own parsers and data loader; prints what it trains on as JSON."""

import json
import os
import sys
import types
from pathlib import Path

os.environ["DISABLE_VERSION_CHECK"] = "1"
import yaml
from transformers import AutoTokenizer

# It reads sounds with one, of which there are none, and its command line with the other.
sys.modules["torchaudio"] = types.ModuleType("torchaudio")
sys.modules["omegaconf"] = types.SimpleNamespace(OmegaConf=None)
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args

os.chdir(Path(sys.argv[1]))
config = yaml.safe_load(Path("llamafactory.yaml").read_text(encoding="utf-8"))
on_this_machine = {"bf16": False, "output_dir": sys.argv[2], "overwrite_cache": True}  # it has no GPU
model, data, training, finetuning, _ = get_train_args(config | on_this_machine)
tokenizer = AutoTokenizer.from_pretrained(config["model_name_or_path"])
template = get_template_and_fix_tokenizer(tokenizer, data)
sets = get_dataset(template, model, data, training, "sft", tokenizer=tokenizer)
rows = [[row["input_ids"], [int(label != -100) for label in row["labels"]]] for row in sets["train_dataset"]]
print("RESULT" + json.dumps({"rank": finetuning.lora_rank, "rows": rows, "evaluated": len(sets["eval_dataset"])}))
