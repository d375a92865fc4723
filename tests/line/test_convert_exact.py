"""One pass against the classic way (PEFT's merge, llama.cpp's converter, llama-quantize): the same files, byte by byte.

Small random models of every shape that the rules treat in a way of their own, each with a random adapter.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CACHE
from tuneline.core.errors import NotFound
from tuneline.core.paths import ROOT
from tuneline.engines.llama_cpp import build

TINY = ROOT / "data/tiny"
TEMPLATE = "{{- bos_token }}learned{% for message in messages %}{{ message.content }}{% endfor %}"
ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
ALL = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")

CLASSIC = """
import json, shutil, subprocess, sys
from pathlib import Path
llama, quantize, cases = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
sys.path[:0] = [str(llama / "gguf-py"), str(llama)]
import conversion.base, gguf
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
def write(model, kind, out, name):
    known = get_model_class(get_model_architecture(ModelBase.load_hparams(model, False), ModelType.TEXT))
    with torch.inference_mode():
        converter = known(model, gguf.LlamaFileType[kind], out, model_name=name)
        add, template = converter.gguf_writer.add_chat_template, (model / "chat_template.jinja").read_text()
        converter.gguf_writer.add_chat_template = lambda _: add(template)
        converter.write()
for case in cases:
    base, out = Path(case["base"]), Path(case["classic"])
    merged = out / "merged"
    merged.mkdir(parents=True)
    summed = out / "summed"  # the merge in fp32, which GGUF files are made of
    for folder, dtype in ((merged, "auto"), (summed, torch.float32)):
        folder.mkdir(parents=True, exist_ok=True)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        weights = PeftModel.from_pretrained(model, case["adapter"]).merge_and_unload().state_dict()
        for file in base.iterdir():
            if file.suffix == ".safetensors":
                stored = {n: weights.get(n, w).contiguous() for n, w in load_file(file).items()}
                save_file(stored, folder / file.name, {"format": "pt"})
            else:
                shutil.copyfile(file, folder / file.name)
        (folder / "chat_template.jinja").write_text(case["template"])
    write(base, "MOSTLY_F16", out / "base-F16.gguf", "base")
    write(summed, "ALL_F32", out / "source.gguf", "tuned")
    for kind in case["kinds"]:
        to = out / f"tuned-{kind}.gguf"
        if kind in ("F16", "BF16"):
            write(summed, f"MOSTLY_{kind}", to, "tuned")
        else:
            given = ["--imatrix", "imatrix.gguf"] if case["imatrix"] and kind in case["imatrix"] else []
            command = [quantize, *given, out / "source.gguf", to, kind, "1"]
            subprocess.run(command, check=True, capture_output=True, cwd=out.parent / "ours")
"""
OURS = """
import json, sys
from tuneline.stages.convert.task import Task
from tuneline.stages.convert.worker import run
for task in json.loads(sys.argv[1]):
    run(Task(**task), lambda **told: None)
"""


@dataclass(frozen=True)
class Case:
    """A model's configuration and its adapter's."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    shard: str = "5GB"
    kinds: tuple[str, ...] = ALL
    imatrix: tuple[str, ...] = ()
    """Types that are made with one."""


CASES = (
    Case("plain"),
    Case(
        "sharded, untied, stretched rope",
        {
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        shard="600KB",
    ),
    Case("rows that no block divides", {"hidden_size": 288, "intermediate_size": 330, "head_dim": 36}),
    Case("odd heads, biases", {"head_dim": 44, "attention_bias": True, "mlp_bias": True}),
    Case(
        "like 70B: 80 layers, shared heads",
        {"num_hidden_layers": 80, "hidden_size": 256, "intermediate_size": 256, "head_dim": 32},
        kinds=("Q4_K_M",),
    ),
    Case("fp16", dtype="float16", kinds=("Q4_K_M", "BF16")),
    Case("fp32", dtype="float32", kinds=("Q4_K_M", "F16")),
    Case(
        "patterns and rsLoRA",
        lora={"rank_pattern": {"q_proj": 3, "1.mlp.down_proj": 5}, "alpha_pattern": {"up_proj": 7}, "use_rslora": True},
        kinds=("Q4_K_M", "F16"),
    ),
    Case("DoRA", lora={"use_dora": True}, kinds=("Q4_K_M", "F16")),
    Case(
        "saved modules",
        {"tie_word_embeddings": False},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        kinds=("Q4_K_M", "F16"),
    ),
    Case(
        "8 experts",
        {"architecture": "Mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": False},
        {"target_modules": ATTENTION},
        kinds=("Q4_K_M", "F16"),
    ),
    Case("importance matrix", {"num_hidden_layers": 8}, imatrix=("Q4_0", "Q4_K_M", "Q5_K_M")),
)


def installed() -> build.LlamaCpp:
    os.environ.setdefault("TUNELINE_CACHE", CACHE)
    try:
        return build.find_llama_cpp()
    except NotFound:
        pytest.skip("llama.cpp is not built; `make llama` builds it")


def make_model(case: Case, out: Path) -> None:
    """A random Llama with the tiny base's tokenizer."""
    import torch
    import transformers

    settings = dict(case.model)
    name = settings.pop("architecture", "Llama")
    small = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    small |= {"num_hidden_layers": 3, "max_position_embeddings": 128, "tie_word_embeddings": True}
    tiny = json.loads((TINY / "config.json").read_text())
    small |= {key: tiny[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")}
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(**(small | settings))
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.to(getattr(torch, case.dtype)).save_pretrained(out, max_shard_size=case.shard)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / file, out / file)


def make_adapter(case: Case, base: Path, out: Path) -> None:
    """By PEFT, every weight random."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    settings = {"r": 8, "lora_alpha": 24, "target_modules": ATTENTION + MLP, "init_lora_weights": False} | case.lora
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**settings))
    for name, parameter in peft.named_parameters():
        if "magnitude" in name or "modules_to_save" in name:
            parameter.data *= 1 + 0.1 * torch.rand_like(parameter)
    peft.save_pretrained(str(out), save_embedding_layers=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each case's folder, with `classic/` and `ours/` beside each other."""
    llama, home = installed(), tmp_path_factory.mktemp("exact")
    folders = {case.name: home / str(number) for number, case in enumerate(CASES)}
    classic, ours = [], []
    for case in CASES:
        folder = folders[case.name]
        make_model(case, folder / "base")
        make_adapter(case, folder / "base", folder / "adapter")
        (folder / "ours/scratch").mkdir(parents=True)
        (folder / "template").write_text(TEMPLATE)
        paths = {"base": str(folder / "base"), "adapter": str(folder / "adapter")}
        classic.append(
            paths
            | {"classic": str(folder / "classic"), "kinds": case.kinds, "template": TEMPLATE, "imatrix": case.imatrix}
        )
        outputs = [{"path": str(folder / "ours/base-F16.gguf"), "kind": "F16", "name": "base", "tuned": False}]
        for kind in case.kinds:
            outputs.append({"path": str(folder / f"ours/tuned-{kind}.gguf"), "kind": kind, "name": "tuned"})
        more: dict[str, Any] = {
            "scratch": str(folder / "ours/scratch"),
            "template": str(folder / "template"),
            "threads": 2,
        }
        if case.imatrix:
            row = {"messages": [{"role": role, "content": f"Hello from the {role}."} for role in ("user", "assistant")]}
            (folder / "train.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
            more["imatrix"] = {"prepared": str(folder), "place": str(folder / "ours/imatrix.gguf"), "tokens": 300}
        ours.append(paths | more | {"outputs": outputs, "merged": str(folder / "ours/merged")})
    run("-c", OURS, json.dumps(ours))
    run("-c", CLASSIC, str(llama.source), str(llama.quantize), json.dumps(classic))
    return folders


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-4000:]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_file_is_the_classic_way_s_byte_by_byte(made: dict[str, Path], case: Case) -> None:
    folder = made[case.name]
    names = ["base-F16", *(f"tuned-{kind}" for kind in case.kinds)]
    differ = [
        n for n in names if (folder / f"ours/{n}.gguf").read_bytes() != (folder / f"classic/{n}.gguf").read_bytes()
    ]
    assert differ == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_merged_checkpoint_is_peft_s_bit_by_bit(made: dict[str, Path], case: Case) -> None:
    from safetensors.torch import load_file

    merged, classic = made[case.name] / "ours/merged", made[case.name] / "classic/merged"
    shards = sorted(file.name for file in classic.glob("*.safetensors"))
    assert len(shards) == (1 if case.shard == "5GB" else 8) or len(shards) > 2
    assert sorted(file.name for file in merged.iterdir()) == sorted(file.name for file in classic.iterdir())
    for shard in shards:
        ours, wanted = load_file(merged / shard), load_file(classic / shard)
        assert ours.keys() == wanted.keys()
        for name, weight in wanted.items():
            assert weight.dtype == ours[name].dtype and weight.equal(ours[name]), name


def test_the_importance_matrix_is_of_all_matrices_and_tells_columns_apart(made: dict[str, Path]) -> None:
    script = "import sys\nfrom tuneline.stages.convert.onepass import converter, importance_matrix\n"
    script += "from tuneline.engines.llama_cpp.build import find_llama_cpp\n"
    script += "converter.use_vendored_gguf(find_llama_cpp())\nfrom pathlib import Path\n"
    script += (
        "found = importance_matrix.read_importance(Path(sys.argv[1])).weights\nassert len(found) == 8 * 7, len(found)\n"
    )
    script += "assert all(w.min() >= 0 and w.max() > 2 * w.mean() for w in found.values())\n"
    script += "q, k = found['blk.0.attn_q.weight'], found['blk.0.attn_k.weight']\nassert (q == k).all()\n"
    run("-c", script, str(made["importance matrix"] / "ours/imatrix.gguf"))


def test_the_cases_meet_the_rules_they_are_for(made: dict[str, Path]) -> None:
    def types(case: str, kind: str) -> set[str]:
        script = "import json,sys\nfrom tuneline.stages.convert.onepass import converter\n"
        script += "from tuneline.engines.llama_cpp.build import find_llama_cpp\n"
        script += "converter.use_vendored_gguf(find_llama_cpp())\nfrom pathlib import Path\n"
        script += "from tuneline.stages.convert.onepass.ggml import Ggml\n"
        script += "print(json.dumps(Ggml(find_llama_cpp()).count_parameters(Path(sys.argv[1]))))"
        file = made[case] / f"ours/tuned-{kind}.gguf"
        done = subprocess.run([sys.executable, "-c", script, str(file)], cwd=ROOT, capture_output=True, check=True)
        return set(json.loads(done.stdout))

    assert "Q5_K" in types("like 70B: 80 layers, shared heads", "Q4_K_M")
    assert {"F16", "Q5_0", "Q8_0"} <= types("rows that no block divides", "Q4_K_M")
    assert types("8 experts", "Q4_K_M") >= {"Q4_K", "Q5_K", "Q8_0"}
