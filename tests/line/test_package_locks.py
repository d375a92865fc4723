"""Packages are installed only as the lock describes them: pip itself, offline, with tiny wheels."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pip
import pytest

from tuneline.core import package_locks
from tuneline.core.errors import StageFailed
from tuneline.core.package_locks import install_locked
from tuneline.core.paths import ROOT

Install = Callable[[str], set[str]]


def make_wheel(folder: Path, name: str, version: str, *requires: str, content: str = "") -> str:
    """Write a wheel into `folder` and return its line in a lock."""
    file = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name.replace('-', '_')}.py", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return f"{name}=={version.partition('+')[0]} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


def damage(line: str) -> str:
    return line[:-2] + ("0" if line[-2] != "0" else "1") + "\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can see; the user's own configuration does not count."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "TORCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def install(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a lock into an empty environment, and returns what is installed then. Its pip is ours, linked."""
    root, locks = tmp_path / "environment", tmp_path / "requirements"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    (site,) = root.glob("lib/python*/site-packages")
    ours = Path(pip.__file__).parent
    for part in (ours, *ours.parent.glob("pip-*.dist-info")):
        (site / part.name).symlink_to(part)
    locks.mkdir()
    (locks / "pip.txt").write_text(f"pip=={pip.__version__} --hash=sha256:{'0' * 64}\n")
    (locks / "torch.txt").write_text(make_wheel(index, "torch", "2.13.0+cpu"))
    (locks / "cuda.txt").write_text(make_wheel(index, "cuda-toolkit", "13.0.3"))
    monkeypatch.setattr(package_locks, "LOCKS", locks)

    def install_text(lock: str) -> set[str]:
        (tmp_path / "some.lock").write_text(lock)
        install_locked(root / "bin/python", tmp_path / "some.lock")
        return {path.stem for path in site.glob("*.py")}

    return install_text


def test_what_the_lock_lists_is_installed_and_nothing_else(install: Install, index: Path) -> None:
    small = make_wheel(index, "small", "1.0", "unlisted")
    make_wheel(index, "small", "1.1")
    make_wheel(index, "unlisted", "1.0")
    assert install(small) == {"small", "torch"}


def test_another_hash_is_refused(install: Install, index: Path) -> None:
    small = make_wheel(index, "small", "1.0")
    with pytest.raises(StageFailed, match=r"(?s)THESE PACKAGES DO NOT MATCH THE HASHES.*small==1.0"):
        install(damage(small))
    make_wheel(index, "small", "1.0", content="import os  # somebody else's")
    with pytest.raises(StageFailed, match="THESE PACKAGES DO NOT MATCH THE HASHES"):
        install(small)
    with pytest.raises(StageFailed, match="Hashes are required"):
        install("small==1.0\n")


def test_nothing_is_built(install: Install, index: Path, tmp_path: Path) -> None:
    """The setup.py of an sdist would run, and its build would fetch packages unchecked."""
    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    sdist = index / "small-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(tmp_path / "setup.py", "small-1.0/setup.py")
    with pytest.raises(StageFailed, match="No matching distribution found for small==1.0"):
        install(f"small==1.0 --hash=sha256:{hashlib.sha256(sdist.read_bytes()).hexdigest()}\n")
    assert not (tmp_path / "ran").exists()


def test_a_cuda_build_gets_what_it_needs(install: Install, index: Path) -> None:
    locks = package_locks.LOCKS
    (locks / "torch.txt").write_text(make_wheel(index, "torch", "2.13.0", "cuda-toolkit==13.0.3"))
    (index / "torch-2.13.0+cpu-py3-none-any.whl").unlink()
    assert install(make_wheel(index, "small", "1.0")) == {"small", "torch", "cuda_toolkit"}


def test_the_build_of_torch_that_pip_is_configured_for_is_taken(
    install: Install, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel on this machine before the index's, whose page lists a hash: by itself pip prefers a listed hash."""
    pages = tmp_path / "empty/torch"
    pages.mkdir(parents=True)
    line = make_wheel(pages, "torch", "2.13.0", "cuda-toolkit==13.0.3")
    digest, name = line.split("sha256:")[1].strip(), next(pages.iterdir()).name
    (pages / "index.html").write_text(f'<a href="{name}#sha256={digest}">{name}</a>')
    lock = package_locks.LOCKS / "torch.txt"
    lock.write_text(f"{lock.read_text().strip()} --hash=sha256:{digest}\n")
    small = make_wheel(index, "small", "1.0")
    assert install(small) == {"small", "torch"}
    (index / "torch-2.13.0+cpu-py3-none-any.whl").unlink()
    assert install(small) == {"small", "torch"}  # what is installed is not looked for again


def test_a_build_of_torch_that_nobody_listed(
    install: Install, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an index of its own it is refused, until a file with its hash, and of all it needs, is named."""
    other = tmp_path / "index/torch"
    other.mkdir(parents=True)
    line = make_wheel(other, "torch", "2.13.0+rocm7.2", "rocm==7.2")
    name = next(other.iterdir()).name
    (other / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>')
    monkeypatch.setenv("TORCH_INDEX", other.parent.as_uri())
    small = make_wheel(index, "small", "1.0")
    with pytest.raises(StageFailed, match=r"(?s)DO NOT MATCH.*torch.txt has no hash of this build.*TORCH_LOCK"):
        install(small)
    own = tmp_path / "rocm.txt"
    monkeypatch.setenv("TORCH_LOCK", str(own))
    own.write_text(line)
    with pytest.raises(StageFailed, match="torch 2.13.0.rocm7.2 requires rocm, which is not installed: set TORCH_LOCK"):
        install(small)
    own.write_text(line + make_wheel(index, "rocm", "7.2"))
    assert install(small) >= {"small", "torch", "rocm"}


def test_make_setup_installs_from_the_lock() -> None:
    # Started by `make test` itself, an inner make would inherit its flags and say which folder it enters.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"
    }
    told = subprocess.run(
        ["make", "-n", "-B", "setup"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    commands = [line for line in told.splitlines() if line.strip()]
    assert commands[0].endswith("-m tuneline.core.package_locks .venv requirements.lock")
    assert "--no-deps --no-build-isolation --editable ." in commands[1]
    assert [command.split()[0] for command in commands[2:]] == ["touch"]
