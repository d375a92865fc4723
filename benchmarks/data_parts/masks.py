"""Loss masks of random conversations, for every template we ship."""

import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common.rounds import ROOT, print_result


def measure(rows: int) -> None:
    """For every template: conversations whose mask is what stands between an assistant's header and its turn's end."""
    import trl as trl_package
    from transformers import AutoTokenizer
    from transformers.models.llama4.processing_llama4 import chat_template as llama_4

    from tests.unit.test_data_render import conversation
    from tuneline.configs.catalogue import load_catalogue
    from tuneline.stages.prepare.rendering.renderer import Renderer

    catalogue, rng = load_catalogue(ROOT / "configs/tools/business.yaml"), random.Random(0)
    talks = [conversation(rng, catalogue) for _ in range(rows or 2000)]
    folder = Path(trl_package.__file__).parent / "chat_templates"
    llama_3 = ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>")
    originals = {
        "tiny": (None, *llama_3),
        "llama-3.1": ((folder / "llama3_1.jinja").read_text("utf-8"), *llama_3),
        "llama-3.2": ((folder / "llama3_2.jinja").read_text("utf-8"), *llama_3),
        "llama-4": (llama_4, "<|header_start|>assistant<|header_end|>\n\n", "<|eot|>"),
    }
    wrong = {}
    for name, (template, header, end) in originals.items():
        with tempfile.TemporaryDirectory() as base:
            tokenizer: Any = AutoTokenizer.from_pretrained(ROOT / "data/tiny", local_files_only=True)
            special = ["<|header_start|>", "<|header_end|>", "<|eot|>", "<|python_start|>", "<|python_end|>"]
            tokenizer.add_special_tokens({"additional_special_tokens": special})
            tokenizer.chat_template = template or tokenizer.chat_template
            tokenizer.save_pretrained(base)
            renderer = Renderer(Path(base), catalogue)
            wrong[name] = 0
            for row in talks:
                rendered = renderer(row)
                pieces = renderer.tokenizer.decode(rendered.ids).split(header)[1:]
                expected = [piece.split(end)[0] + end for piece in pieces]
                runs = [learned for learned, _ in _runs(rendered.ids, rendered.mask)]
                wrong[name] += [renderer.tokenizer.decode(run) for run in runs] != expected
        print(f"{name:<12} {wrong[name]} of {len(talks)} conversations have a wrong mask")
    print_result(
        "data masks", sum(wrong.values()), 0, met=not any(wrong.values()), conversations=len(talks), wrong=wrong
    )


def _runs(ids: list[int], mask: list[int]) -> list[tuple[list[int], int]]:
    runs: list[tuple[list[int], int]] = []
    for at, (token, learned) in enumerate(zip(ids, mask, strict=True)):
        if learned and (not at or not mask[at - 1]):
            runs.append(([], at))
        if learned:
            runs[-1][0].append(token)
    return runs
