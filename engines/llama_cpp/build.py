"""llama.cpp, built once from one pinned source: its converter, its quantizer and its server.

The sdist of llama-cpp-python holds all of llama.cpp; its hash pins the three together, here and in the image.
`make llama` builds it: this file, run as one.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tuneline.core import artifacts, paths
from tuneline.core.errors import NotFound, StageFailed

log = logging.getLogger(__name__)

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


def find_llama_cpp() -> LlamaCpp:
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
            log.info("llama.cpp: fetching its source (77 MB, once)")
            _unpack(_sdist(root), root)
        log.info("llama.cpp: compiling %s in %s (minutes, once; a stopped build goes on)", " and ".join(TARGETS), root)
        source = f"-DLLAMA_CPP_SOURCE={_source(root)}"
        _run(_cmake(), "-S", str(CMAKE_PROJECT), "-B", str(root / "build"), source, *FLAGS)
        jobs = str(len(os.sched_getaffinity(0)))
        _run(_cmake(), "--build", str(root / "build"), "--target", *TARGETS, "--parallel", jobs)
        (root / MARK).touch()
    return find_llama_cpp()


def _root() -> Path:
    recipe = " ".join((*FLAGS, *TARGETS)) + (CMAKE_PROJECT / "CMakeLists.txt").read_text()
    flags = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    return paths.cache() / f"llama.cpp-{VERSION}-{flags}"


def _source(root: Path) -> Path:
    return root / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"


def _sdist(root: Path) -> Path:
    """Downloaded by pip, which knows the user's index and proxy; building its metadata compiles nothing.

    pip checks the hash itself, before it runs any of the sdist's code.
    """
    sdist = root / f"llama_cpp_python-{VERSION}.tar.gz"
    if not sdist.exists() or artifacts.sha256(sdist) != SHA256:
        pinned = root / "sdist.txt"
        pinned.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n")
        wanted = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes")
        _run(sys.executable, "-m", "pip", "download", "--quiet", *wanted, "--dest", str(root), "-r", str(pinned))
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
        compiler = shutil.which(os.environ.get("CXX", "c++"))
        hint = "" if compiler else "; llama.cpp needs a C++ compiler (on Debian: `apt install g++ make`)"
        raise StageFailed(
            f"`{' '.join(command[:4])} …` ended with {error.returncode}; its output is above{hint}"
        ) from None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build()
