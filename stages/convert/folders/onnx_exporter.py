"""A script for the environment `onnx`: exports a 16-bit checkpoint to an ONNX model, or runs one in onnxruntime.

    python -P onnx_exporter.py '{"model": FOLDER, "out": FOLDER}'
    python -P onnx_exporter.py '{"model": FOLDER, "texts": IDS, "logits": FILE}'
    python -P onnx_exporter.py '{"model": FOLDER, "texts": IDS, "answers": FILE, "tokens": 24, "stops": [0]}'

IDS is a JSON file: a list of token ids for each text. Nothing of Tuneline is imported here: this environment has other
packages.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    task: dict[str, Any] = json.loads(sys.argv[1])
    if "out" in task:
        export_model(Path(task["model"]), task["out"])
        return
    texts: list[list[int]] = json.loads(Path(task["texts"]).read_text(encoding="utf-8"))
    if "logits" in task:
        write_onnx_logits(task["model"], texts, task["logits"])
    else:
        write_onnx_answers(task["model"], texts, task["answers"], task["tokens"], task["stops"])


def export_model(model: Path, out: str) -> None:
    """Export in fp32, with the KV cache as inputs and outputs."""
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as staged:
        for file in model.iterdir():
            (Path(staged) / file.name).symlink_to(file.resolve())
        config = json.loads((model / "config.json").read_text())
        (Path(staged) / "config.json").unlink()
        (Path(staged) / "config.json").write_text(json.dumps(to_transformers_4(config)))
        main_export(
            staged, out, task="text-generation-with-past", dtype="fp32", local_files_only=True, do_validation=False
        )


def to_transformers_4(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config as transformers 4 reads it, which optimum needs: `rope_parameters` are split.

    Transformers 4 does not know them, and would compute with its default.
    """
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    return config


def write_onnx_logits(model: str, texts: list[list[int]], file: str) -> None:
    """Write the logits of each token but the last of each text, one text after the other, fp32 [tokens, vocabulary]."""
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    loaded: Any = ORTModelForCausalLM.from_pretrained(model, local_files_only=True)
    with Path(file).open("wb") as out:
        for text in texts:
            ids = torch.tensor([text])
            logits = loaded(ids, attention_mask=torch.ones_like(ids)).logits[0, :-1]
            logits.float().contiguous().numpy().tofile(out)


def write_onnx_answers(model: str, texts: list[list[int]], file: str, tokens: int, stops: list[int]) -> None:
    """Write each text with the greedy answer to it, as JSON: a list of token ids for each text."""
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    loaded: Any = ORTModelForCausalLM.from_pretrained(model, local_files_only=True)
    answers = []
    for text in texts:
        ids = torch.tensor([text])
        output = loaded.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
        answers.append(output[0].tolist())
    Path(file).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
