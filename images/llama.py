"""llama.cpp in an image: built from the pinned source into `.cache` of the working directory.

`tuneline.engines.llama_cpp.build` looks for it there.
"""

import modal

from tuneline.images.pins import pinned
from tuneline.images.source import ENVIRONMENT, HOME, with_files

_CORE = ("__init__", "errors", "files", "paths", "redaction")
BUILDER_IMPORTS = (*(f"core/{name}.py" for name in _CORE), "engines/__init__.py", "engines/llama_cpp/__init__.py")
"""What engines/llama_cpp/build.py imports; changes to other files do not rebuild llama.cpp."""
BUILDER_FILES = ("engines/llama_cpp/build.py", "engines/llama_cpp/CMakeLists.txt")


def with_llama(image: modal.Image) -> modal.Image:
    """Return `image`, which has pydantic and PyYAML, with llama.cpp.

    SOURCE_DATE_EPOCH makes ggml build for AVX2 instead of for the building machine (its CMakeLists.txt): an image is
    built once and runs on many machines.
    """
    image = image.apt_install("build-essential").pip_install(*pinned("cmake", "scikit-build-core")).env(ENVIRONMENT)
    image = with_files(image, *BUILDER_IMPORTS, *BUILDER_FILES)
    return image.run_commands(
        f"cd {HOME} && SOURCE_DATE_EPOCH=1 PYTHONPATH={HOME} python -m tuneline.engines.llama_cpp.build"
    )
