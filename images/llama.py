"""llama.cpp, compiled once: the images that need it begin with this one and add their packages.

`tuneline.engines.llama_cpp.build` compiles the pinned source into `.cache` of the working directory, and looks for it
there.
"""

from tuneline.engines.llama_cpp.build import PORTABLE
from tuneline.images.packages import slim_image, with_locked
from tuneline.images.source import ENVIRONMENT, HOME, with_files

_CORE = ("__init__", "environment", "errors", "files", "paths", "redaction")
BUILDER_IMPORTS = (*(f"core/{name}.py" for name in _CORE), "engines/__init__.py", "engines/llama_cpp/__init__.py")
"""What engines/llama_cpp/build.py imports; changes to other files do not compile llama.cpp again."""
BUILDER_FILES = ("engines/llama_cpp/build.py", "engines/llama_cpp/CMakeLists.txt")
BUILD_COMMAND = f"cd {HOME} && {PORTABLE}=1 PYTHONPATH={HOME} python -m tuneline.engines.llama_cpp.build"

image = with_files(with_locked(slim_image(), "llama").env(ENVIRONMENT), *BUILDER_IMPORTS, *BUILDER_FILES).run_commands(
    BUILD_COMMAND
)
