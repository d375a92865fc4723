"""Image for conversion on a GPU, and for llmcompressor and optimum, each in an environment of its own.

The environments are built into `.cache` of the working directory, where `environments/` looks for them.
"""

import modal

from tuneline.images import cpu
from tuneline.images.llama import with_llama
from tuneline.images.pins import PYTHON, pinned
from tuneline.images.source import HOME, with_files, with_source

_ENVIRONMENTS = "stages/convert/folders/environments"
ENVIRONMENT_FILES = (
    *("core/child_processes.py", "stages/__init__.py", "stages/convert/folders/__init__.py"),
    *(f"{_ENVIRONMENTS}/{name}" for name in ("__init__.py", "__main__.py", "compress.txt", "onnx.txt")),
)
"""What building the environments imports and reads."""
_BUILD = f"cd {HOME} && PYTHONPATH={HOME} python -m tuneline.stages.convert.folders.environments"
_CPU = "TORCH_INDEX=https://download.pytorch.org/whl/cpu"

_torch = modal.Image.debian_slim(python_version=PYTHON).pip_install(*pinned("torch"))  # with CUDA
_image = with_llama(cpu.with_packages(_torch).pip_install(*pinned("sentencepiece", "peft", "accelerate")))
image = with_source(
    with_files(_image, *ENVIRONMENT_FILES).run_commands(f"{_BUILD} compress", f"export {_CPU} && {_BUILD} onnx")
)
