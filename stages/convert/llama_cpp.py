"""llama.cpp, built once from one pinned source: its converter, its quantizer and its server.

The sdist of llama-cpp-python holds all of llama.cpp; its hash pins the three together, here and in the image.
`python -m stages.convert.llama_cpp` builds it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from stages import paths
from stages.errors import NotFound, StageFailed

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
TARGETS = ("llama-server", "llama-quantize")
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # else the build asks the hub for the web page
    "-DLLAMA_OPENSSL=OFF",
    "-DGGML_OPENMP=OFF",
)
CMAKE_PROJECT = Path(__file__).parent
MARK = "built"
"""Written last: without it a build goes on."""


@dataclass(frozen=True)
class LlamaCpp:
    """Where the parts of the installed llama.cpp lie."""

    source: Path
    server: Path
    quantize: Path


def installed() -> LlamaCpp:
    """The built llama.cpp.

    Raises:
        NotFound: it is not built yet.
    """
    root = _root()
    if not (root / MARK).exists():
        raise NotFound(f"llama.cpp is not built in {root}; run `make llama` (about ten minutes on two cores, once)")
    return LlamaCpp(_source(root), root / "build/bin/llama-server", root / "build/bin/llama-quantize")


def build() -> LlamaCpp:
    """Fetch the pinned source and compile what is used; what is there already is kept.

    Raises:
        StageFailed: a step failed; its output was shown.
    """
    root = _root()
    if not (root / MARK).exists():
        root.mkdir(parents=True, exist_ok=True)
        if not _source(root).exists():
            _unpack(_sdist(root), root)
        source = f"-DLLAMA_CPP_SOURCE={_source(root)}"
        _run(_cmake(), "-S", str(CMAKE_PROJECT), "-B", str(root / "build"), source, *FLAGS)
        jobs = str(len(os.sched_getaffinity(0)))
        _run(_cmake(), "--build", str(root / "build"), "--target", *TARGETS, "--parallel", jobs)
        (root / MARK).touch()
    return installed()


def _root() -> Path:
    recipe = " ".join((*FLAGS, *TARGETS)) + (CMAKE_PROJECT / "CMakeLists.txt").read_text()
    flags = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    return paths.cache() / f"llama.cpp-{VERSION}-{flags}"


def _source(root: Path) -> Path:
    return root / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"


def _sdist(root: Path) -> Path:
    """Downloaded by pip, which knows the user's index and proxy; building its metadata compiles nothing."""
    sdist = root / f"llama_cpp_python-{VERSION}.tar.gz"
    wanted = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(root))
    if not sdist.exists():
        _run(sys.executable, "-m", "pip", "download", "--quiet", *wanted, f"llama-cpp-python=={VERSION}")
    with sdist.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        sdist.unlink()
        raise StageFailed(f"{sdist.name}: SHA-256 {found}, not the pinned {SHA256}; run again to fetch it anew")
    return sdist


def _unpack(sdist: Path, root: Path) -> None:
    """To a folder of its own first, so that a half unpacked source is never built."""
    scratch = root / "unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    (scratch / f"llama_cpp_python-{VERSION}").replace(root / f"llama_cpp_python-{VERSION}")
    scratch.rmdir()


def _cmake() -> str:
    """The cmake beside this Python (the PyPI package, in the lock), else the system's."""
    beside = Path(sys.executable).with_name("cmake")
    return str(beside) if beside.exists() else "cmake"


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise StageFailed(f"{command[0]}: not installed; `make setup` installs it") from None
    except subprocess.CalledProcessError as error:
        raise StageFailed(f"`{' '.join(command[:4])} …` ended with {error.returncode}; its output is above") from None


if __name__ == "__main__":
    build()
