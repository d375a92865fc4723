"""How llama.cpp is fetched and built: pinned, safely unpacked, and gone on with after a kill. Nothing is compiled."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tuneline.core.errors import NotFound, StageFailed
from tuneline.engines.llama_cpp import build


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would have been run; pip leaves an sdist whose hash is the pinned one."""
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    ready = tmp_path / "ready.tar.gz"
    pack(ready, f"llama_cpp_python-{build.VERSION}/vendor/llama.cpp/CMakeLists.txt")
    monkeypatch.setattr(build, "SHA256", build.sha256(ready))
    ran: list[tuple[str, ...]] = []

    def run(*command: str) -> None:
        ran.append(command)
        if "pip" in command:
            target = Path(command[command.index("--dest") + 1]) / f"llama_cpp_python-{build.VERSION}.tar.gz"
            target.write_bytes(ready.read_bytes())

    monkeypatch.setattr(build, "_run", run)
    return ran


def pack(archive: Path, name: str) -> None:
    with tarfile.open(archive, "w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))


def test_what_is_not_built_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path))
    with pytest.raises(NotFound, match="make llama"):
        build.find_llama_cpp()


def test_pip_is_told_the_pinned_hash(commands: list[tuple[str, ...]]) -> None:
    build.build()
    pip, configure, compile_ = commands
    assert "--require-hashes" in pip
    pinned = Path(pip[pip.index("-r") + 1]).read_text(encoding="utf-8")
    assert pinned == f"llama-cpp-python=={build.VERSION} --hash=sha256:{build.SHA256}\n"
    assert set(build.FLAGS) <= set(configure)
    assert set(build.TARGETS) <= set(compile_)


def test_a_built_one_is_not_built_again(commands: list[tuple[str, ...]]) -> None:
    first = build.build()
    commands.clear()
    assert build.build() == first == build.find_llama_cpp()
    assert commands == []


def test_a_killed_build_goes_on_without_fetching_again(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = build._run

    def killed(*command: str) -> None:
        fine(*command)
        if "--build" in command:
            raise KeyboardInterrupt

    monkeypatch.setattr(build, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        build.build()
    with pytest.raises(NotFound):
        build.find_llama_cpp()
    monkeypatch.setattr(build, "_run", fine)
    commands.clear()
    build.build()
    assert [command[1] for command in commands] == ["-S", "--build"]


def test_a_damaged_sdist_is_fetched_again(commands: list[tuple[str, ...]]) -> None:
    root = build._root(build.list_flags())
    root.mkdir(parents=True)
    (root / f"llama_cpp_python-{build.VERSION}.tar.gz").write_bytes(b"half")
    build.build()
    assert "pip" in commands[0]


SOURCE = f"llama_cpp_python-{build.VERSION}/vendor/llama.cpp"


def _change(source: Path) -> None:
    (source / "CMakeLists.txt").write_bytes(b"y")


def _remove(source: Path) -> None:
    (source / "CMakeLists.txt").unlink()


def _add(source: Path) -> None:
    (source / "ggml.cpp").write_bytes(b"x")


def _link(source: Path) -> None:
    (source / "CMakeLists.txt").replace(source.parent / "elsewhere")
    (source / "CMakeLists.txt").symlink_to(source.parent / "elsewhere")


def _link_folder(source: Path) -> None:
    source.replace(source.parents[2] / "elsewhere")
    source.symlink_to(source.parents[2] / "elsewhere")


@pytest.mark.parametrize("damage", [_change, _remove, _add, _link, _link_folder])
def test_a_source_that_is_not_the_pinned_one_is_never_compiled(
    commands: list[tuple[str, ...]],
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A build was stopped; what lies there is changed, and it goes on. Objects of the changed file are gone too."""
    pretend, root = build._run, build._root(build.list_flags())

    def stopped(*command: str) -> None:
        pretend(*command)
        if "--build" in command:
            raise KeyboardInterrupt

    monkeypatch.setattr(build, "_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        build.build()
    (root / "build").mkdir()
    (root / "build/ggml.o").write_bytes(b"made of the changed source")
    damage(root / SOURCE)
    compiled: list[list[bytes]] = []

    def look(*command: str) -> None:
        if "-S" in command:
            assert not (root / "build").exists()
            folder = root / f"llama_cpp_python-{build.VERSION}"
            compiled.append([path.read_bytes() for path in folder.rglob("*") if path.is_file()])

    monkeypatch.setattr(build, "_run", look)
    build.build()
    assert compiled == [[b"x"]]
    assert "differs from the pinned source" in caplog.text and ("ggml.cpp" in caplog.text) == (damage is _add)


def test_an_untouched_source_keeps_what_was_compiled(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    build.build()
    (build._root(build.list_flags()) / build.MARK).unlink()
    (build._root(build.list_flags()) / "build").mkdir()
    (build._root(build.list_flags()) / "build/ggml.o").write_bytes(b"x")
    build.build()
    assert (build._root(build.list_flags()) / "build/ggml.o").exists()


def test_a_member_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    pack(tmp_path / "evil.tar.gz", "../../evil")
    root = tmp_path / "a" / "root"
    root.mkdir(parents=True)
    with pytest.raises(tarfile.OutsideDestinationError):
        build._unpack(tmp_path / "evil.tar.gz", root)
    assert not list(tmp_path.rglob("evil"))


def test_other_flags_are_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build._root(build.list_flags())
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DGGML_NATIVE=OFF"))
    assert build._root(build.list_flags()) != before


def test_an_image_is_another_build_and_compiles_in_what_memory_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build._root(build.list_flags())
    monkeypatch.setenv(build.PORTABLE, "1")
    assert build._root(build.list_flags()) != before
    assert build.count_jobs(64, 64 << 30) == 8  # a builder shows every core of its host
    assert build.count_jobs(64, 4 << 30) == 2 and build.count_jobs(2, 64 << 30) == 2 and build.count_jobs(8, 1) == 1


def test_a_failing_or_missing_program_is_named() -> None:
    with pytest.raises(StageFailed, match="ended with 3"):
        build._run("sh", "-c", "exit 3")
    with pytest.raises(StageFailed, match="no-such-cmake: not installed"):
        build._run("no-such-cmake")


def test_a_command_in_another_folder_finds_the_build_of_tunelines_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.paths, "ROOT", tmp_path / "checkout")
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "checkout/.cache"))
    root = build._root(build.FLAGS)
    root.mkdir(parents=True)
    (root / build.MARK).touch()
    with pytest.raises(NotFound, match="run `make llama` in"):
        monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "mine"))
        build.find_llama_cpp()  # a cache that is named is the only one
    monkeypatch.delenv("TUNELINE_CACHE")
    monkeypatch.chdir(tmp_path)
    assert build.find_llama_cpp().source.is_relative_to(root)
