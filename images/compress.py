"""Image for conversion on a GPU, and for llmcompressor and optimum, each in an environment of its own.

The environments are built into `.cache` of the working directory, where `environments/` looks for them.
"""

from tuneline.images import llama
from tuneline.images.cpu import TORCH_CPU
from tuneline.images.packages import with_locked
from tuneline.images.source import HOME, with_files, with_source

_ENVIRONMENTS = "stages/convert/folders/environments"
ENVIRONMENT_FILES = (
    *("core/child_processes.py", "core/package_locks.py", "stages/__init__.py", "stages/convert/folders/__init__.py"),
    *(f"{_ENVIRONMENTS}/{name}" for name in ("__init__.py", "__main__.py")),
    *(f"requirements/{name}.txt" for name in ("pip", "torch", "cuda", "compress", "onnx")),
)
"""What building the environments imports and reads."""
_BUILD = f"cd {HOME} && PYTHONPATH={HOME} python -m tuneline.stages.convert.folders.environments"

_image = with_locked(llama.image, "torch", "cuda", "convert")
image = with_source(
    with_files(_image, *ENVIRONMENT_FILES).run_commands(
        f"{_BUILD} compress", f"export TORCH_INDEX={TORCH_CPU} && {_BUILD} onnx"
    )
)
