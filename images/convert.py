"""Conversion, and serving GGUF: the packages of `cpu`, and llama.cpp built from the pinned source.

It is built into `.cache` of the folder the code runs in, where `stages.convert.llama_cpp` looks for it.
"""

import modal

from images import cpu
from images.pins import pinned
from images.source import ENVIRONMENT, HOME, ROOT, with_source

_BUILDER = ("stages/__init__.py", "stages/artifact.py", "stages/errors.py", "stages/paths.py", "configs/recipe.py")
"""What stages/convert/llama_cpp.py imports, run as a file: a change elsewhere does not build llama.cpp again."""
_MORE = ("configs/__init__.py", "configs/hardware.py", "configs/hardware.yaml")


def with_llama_cpp(image: modal.Image) -> modal.Image:
    """`image`, and llama.cpp built in it."""
    image = (
        image.apt_install("build-essential")
        .pip_install(*pinned("cmake", "scikit-build-core", "sentencepiece", "peft", "accelerate"))
        .env(ENVIRONMENT)
    )
    image = with_files(
        image, *_BUILDER, *_MORE, *(f"stages/convert/{name}" for name in ("llama_cpp.py", "CMakeLists.txt"))
    )
    return image.run_commands(f"cd {HOME} && PYTHONPATH={HOME} python stages/convert/llama_cpp.py")


def with_files(image: modal.Image, *files: str) -> modal.Image:
    """`image`, and some of our files in a layer, for what is built of them."""
    for file in files:
        if (ROOT / file).exists():
            image = image.add_local_file(ROOT / file, f"{HOME}/{file}", copy=True)
    return image


image = with_source(with_llama_cpp(cpu.packages))
