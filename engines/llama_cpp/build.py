"""llama.cpp, built once from one pinned source: its converter, its quantizer and its server.

The sdist of llama-cpp-python contains all of llama.cpp, so one hash pins all three, here and in the image.
`make llama` runs this file as a script.
"""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tuneline.core import paths
from tuneline.core.environment import is_set, read_variable
from tuneline.core.errors import NotFound, StageFailed
from tuneline.core.files import sha256

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
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # or the build downloads the web page from the hub
    "-DLLAMA_OPENSSL=OFF",
    "-DGGML_OPENMP=OFF",
)
PORTABLE = "TUNELINE_LLAMA_PORTABLE"
"""Environment variable: 1 builds for every x86-64-v3 processor, as an image has to, not for the one that compiles."""
PORTABLE_FLAGS = (
    "-DGGML_NATIVE=OFF",
    *(f"-DGGML_{name}=ON" for name in ("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C")),
)
"""The instruction sets of x86-64-v3 (gitlab.com/x86-psABIs/x86-64-ABI); ggml leaves all of them out where
SOURCE_DATE_EPOCH is set. One set for all machines, so that an image computes the same wherever it runs."""
MOST_JOBS = 8
"""Compilers at a time: a builder may show every core of its host."""
JOB_BYTES = 1_500_000_000
"""Memory for each of them; see docs/log.md for what the largest file took."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CMAKE_PROJECT = Path(__file__).parent
MARK = "built"
"""File written last: without it the build is not finished, and is continued."""


@dataclass(frozen=True)
class LlamaCpp:
    """Paths of the parts of a built llama.cpp."""

    source: Path
    server: Path
    quantize: Path


def find_llama_cpp() -> LlamaCpp:
    """Return the built llama.cpp: the one for this machine, else the one that an image has.

    A command in another folder finds the build of Tuneline's own folder, where `make llama` writes it.

    Raises:
        NotFound: it is not built yet.
    """
    caches = [paths.cache()] if is_set("TUNELINE_CACHE") else [paths.cache(), paths.ROOT / ".cache"]
    roots = [cache / _folder(flags) for cache in caches for flags in (FLAGS, (*FLAGS, *PORTABLE_FLAGS))]
    root = next((root for root in roots if (root / MARK).exists()), None)
    if root is None:
        raise NotFound(
            f"llama.cpp is not built in {roots[0]}; run `make llama` in {paths.ROOT} (once, about ten minutes)"
        )
    return _parts(root)


def build() -> LlamaCpp:
    """Download the pinned source and compile `TARGETS`; finished steps are not repeated.

    Raises:
        StageFailed: a step failed; its output has been shown.
    """
    root = _root(list_flags())
    if not (root / MARK).exists():
        root.mkdir(parents=True, exist_ok=True)
        _prepare_source(_download_sdist(root), root)
        log.info(
            "llama.cpp: compiling %s in %s (once, some minutes; an interrupted build resumes)",
            " and ".join(TARGETS),
            root,
        )
        source = f"-DLLAMA_CPP_SOURCE={_source(root)}"
        _run(_cmake(), "-S", str(CMAKE_PROJECT), "-B", str(root / "build"), source, *list_flags())
        jobs = count_jobs(len(os.sched_getaffinity(0)), _read_free_memory())
        _run(_cmake(), "--build", str(root / "build"), "--target", *TARGETS, "--parallel", str(jobs))
        (root / MARK).touch()
    return _parts(root)


def list_flags() -> tuple[str, ...]:
    """Return CMake's options: for this machine, or where `PORTABLE` is set for all that an image may run on."""
    return (*FLAGS, *PORTABLE_FLAGS) if read_variable(PORTABLE) == "1" else FLAGS


def count_jobs(cores: int, memory_bytes: int) -> int:
    """Return how many compilers to run at a time."""
    return max(1, min(cores, MOST_JOBS, memory_bytes // JOB_BYTES))


def _read_free_memory() -> int:
    """Return the bytes that are free here: of the machine, or of the container's limit where that is less."""
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    free = 1024 * int(available[1]) if available else JOB_BYTES
    limit = CGROUP_LIMIT.read_text(encoding="utf-8").strip() if CGROUP_LIMIT.exists() else "max"
    return free if limit == "max" else min(free, int(limit))


def _parts(root: Path) -> LlamaCpp:
    return LlamaCpp(_source(root), root / "build/bin/llama-server", root / "build/bin/llama-quantize")


def _root(flags: tuple[str, ...]) -> Path:
    return paths.cache() / _folder(flags)


def _folder(flags: tuple[str, ...]) -> str:
    """Return the name of the folder of a build with these flags."""
    build_settings = " ".join((*flags, *TARGETS)) + (CMAKE_PROJECT / "CMakeLists.txt").read_text()
    settings_hash = hashlib.sha256(build_settings.encode()).hexdigest()[:8]
    return f"llama.cpp-{VERSION}-{settings_hash}"


def _source(root: Path) -> Path:
    return root / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"


def _download_sdist(root: Path) -> Path:
    """Return the sdist, downloaded by pip, which knows the user's index and proxy.

    Building its metadata compiles nothing. pip checks the hash before it runs any of the sdist's code.
    """
    sdist = root / f"llama_cpp_python-{VERSION}.tar.gz"
    if not sdist.exists() or sha256(sdist) != SHA256:
        log.info("llama.cpp: fetching its source (77 MB, once)")
        requirements = root / "sdist.txt"
        requirements.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n")
        options = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes")
        _run(sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", str(root), "-r", str(requirements))
    return sdist


def _prepare_source(sdist: Path, root: Path) -> None:
    """Leave exactly the files of the sdist in the source folder.

    If any differs, the folder is unpacked again, and what was compiled from it is removed: the files of an sdist are
    older than those objects, so that make would keep them.
    """
    folder = root / f"llama_cpp_python-{VERSION}"
    if folder.exists():
        differing = _list_differences(sdist, folder)
        if not differing:
            return
        names = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        log.warning("llama.cpp: %s in %s: differs from the pinned source; unpacking and compiling again", names, folder)
        shutil.rmtree(folder)
        shutil.rmtree(root / "build", ignore_errors=True)
    _unpack(sdist, root)


def _list_differences(sdist: Path, folder: Path) -> list[str]:
    """Return the names, in `folder`, of files that are missing, changed, links, or not in the sdist. 4 s."""
    present = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*") if _is_no_folder(path)}
    differing = set(present)
    with tarfile.open(sdist) as archive:
        for member in archive:
            if member.isfile():
                content, file = archive.extractfile(member), folder.parent / member.name
                assert content is not None  # it is a file
                is_same = member.name in present and not file.is_symlink() and file.read_bytes() == content.read()
                (differing.discard if is_same else differing.add)(member.name)
    return sorted(name.partition("/")[2] for name in differing)


def _is_no_folder(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir()


def _unpack(sdist: Path, root: Path) -> None:
    """Unpack the sdist into a scratch folder, then move it, so that a half unpacked source is never built."""
    scratch = root / "unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    (scratch / f"llama_cpp_python-{VERSION}").replace(root / f"llama_cpp_python-{VERSION}")
    scratch.rmdir()


def _cmake() -> str:
    """Return the cmake beside this Python (the PyPI package, in the lock), or else the system's."""
    beside_python = Path(sys.executable).with_name("cmake")
    return str(beside_python) if beside_python.exists() else "cmake"


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise StageFailed(f"{command[0]}: not installed; `make setup` installs it") from None
    except subprocess.CalledProcessError as error:
        compiler = shutil.which(read_variable("CXX", "c++"))
        hint = "" if compiler else "; llama.cpp needs a C++ compiler (on Debian: `apt install g++ make`)"
        raise StageFailed(
            f"`{' '.join(command[:4])} …` ended with {error.returncode}; its output is above{hint}"
        ) from None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build()
