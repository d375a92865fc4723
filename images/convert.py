"""Conversion, and serving GGUF: the packages of `cpu`, and llama.cpp built from the pinned source.

It is built into `.cache` of the folder the code runs in, where `stages.convert.llama_cpp` looks for it.
"""

from images import cpu
from images.pins import pinned
from images.source import ENVIRONMENT, HOME, ROOT, with_source

_BUILDER = ("stages/__init__.py", "stages/artifact.py", "stages/errors.py", "stages/paths.py", "configs/recipe.py")
"""What stages/convert/llama_cpp.py imports, run as a file: a change elsewhere does not build llama.cpp again."""
_MORE = ("configs/__init__.py", "configs/hardware.py", "configs/hardware.yaml")

_image = (
    cpu.packages.apt_install("build-essential")
    .pip_install(*pinned("cmake", "scikit-build-core", "sentencepiece", "peft", "accelerate"))
    .env(ENVIRONMENT)
)
for _file in (*_BUILDER, *_MORE):
    if (ROOT / _file).exists():
        _image = _image.add_local_file(ROOT / _file, f"{HOME}/{_file}", copy=True)
for _file in ("llama_cpp.py", "CMakeLists.txt"):
    _image = _image.add_local_file(ROOT / "stages/convert" / _file, f"{HOME}/stages/convert/{_file}", copy=True)
_image = _image.run_commands(f"cd {HOME} && PYTHONPATH={HOME} python stages/convert/llama_cpp.py")
image = with_source(_image)
