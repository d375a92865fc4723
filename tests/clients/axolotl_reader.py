"""Reads an exported folder with Axolotl's own schema and chat strategy; prints what it trains on as JSON."""

import json
import os
import sys
from pathlib import Path

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
import yaml
from axolotl.prompt_strategies.chat_template import load
from axolotl.utils.dict import DictDefault
from axolotl.utils.schemas.config import AxolotlInputConfig
from datasets import load_dataset
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
os.chdir(folder)
config = yaml.safe_load(Path("axolotl.yaml").read_text(encoding="utf-8"))
checked = AxolotlInputConfig.model_validate(config)
unknown = sorted(set(config) - set(AxolotlInputConfig.model_fields))
tokenizer = AutoTokenizer.from_pretrained(config["base_model"])
rows = []
for entry in checked.model_dump(exclude_none=True)["datasets"]:
    if entry["type"] == "chat_template":
        entry = {**entry, "chat_template": checked.chat_template, "chat_template_jinja": checked.chat_template_jinja}
        settings = DictDefault({**checked.model_dump(exclude_none=True)})
        strategy = load(tokenizer, settings, ds_cfg=DictDefault(entry))
        data = load_dataset("json", data_files=entry["path"], split="train")
        for row in data:
            tokenized = strategy.tokenize_prompt(row)
            rows.append([tokenized["input_ids"], [int(label != -100) for label in tokenized["labels"]]])
print("RESULT" + json.dumps({"unknown": unknown, "rows": rows}))
