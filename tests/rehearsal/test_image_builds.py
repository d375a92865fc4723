"""Images from their own commands: what the client sends, what is replaced here, and three of them built and started."""

from pathlib import Path

import pytest

from tests.conftest import CACHE
from tuneline.core.errors import BadRequest, TunelineError
from tuneline.images.cpu import TORCH_CPU
from tuneline.rehearsal.image_builds import build, package_sources
from tuneline.rehearsal.image_builds.command import PYTHON, build_and_start, read_images
from tuneline.rehearsal.image_builds.layers import Layer
from tuneline.rehearsal.image_builds.root import check_machine


def test_the_client_sends_layers_with_the_files_that_they_add(tmp_path: Path) -> None:
    images = read_images(["train.on_cpu", "convert"], tmp_path, "2026.10")
    layers, source = images["train.on_cpu"]
    assert layers[0].source == "python:3.12-slim-trixie" and layers[1].source is None
    assert [b"torch==2.13.0" in layer.files.get(build.REQUIREMENTS, b"") for layer in layers[:4]] == [0, 0, 1, 0]
    assert layers[-1].environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "/root/tuneline/stages/train/__init__.py" in source and "/root/tuneline/cli/__init__.py" not in source
    [llama] = [layer for layer in images["convert"][0] if "/root/tuneline/engines/llama_cpp/build.py" in layer.files]
    assert any("tuneline.engines.llama_cpp.build" in command for command in llama.words("RUN"))
    assert images["convert"][0][:2] == layers[:2], "what images share is built once"


def test_a_layer_is_kept_by_all_that_decides_it() -> None:
    layer = Layer(("FROM base", "RUN true"), {"/a": b"1"})
    same = Layer(("FROM base", "RUN true"), {"/a": b"1"})
    others = [
        Layer(("FROM base", "RUN false"), {"/a": b"1"}),
        Layer(layer.commands, {"/a": b"2"}),
        Layer(layer.commands),
    ]
    assert layer.key("p") == same.key("p")
    assert len({layer.key("p"), layer.key("q"), *(other.key("p") for other in others)}) == 5


def test_what_this_machine_cannot_reach_is_replaced_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_index = Layer((f"RUN python -m pip install -r {build.REQUIREMENTS} --index-url {TORCH_CPU} --no-deps",))
    kernel = Layer(("RUN cd /root && python -m tuneline.core.attention_kernels /root/kernels.json a/b",))
    for reachable in (True, False):
        monkeypatch.setattr(package_sources, "can_reach", lambda url, reachable=reachable: reachable)
        made = build.Build(tmp_path, print)
        commands = [command for layer in (from_index, kernel) for command in made._replace_unreachable(layer).commands]
        assert commands == ([*from_index.commands, *kernel.commands] if reachable else [build.INSTALL_TORCH])
        assert len(made.replaced) == (0 if reachable else 2)


def test_an_unknown_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"gpu: no such image; there are cpu, train"):
        build_and_start(["gpu"], tmp_path, print)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "started"),
    [("cpu", ["fetch", "prepare"]), ("train.on_cpu", ["train"]), ("convert", ["convert", "evaluate"])],
)
def test_an_image_is_built_and_started(image: str, started: list[str]) -> None:
    """The first time minutes, llama.cpp's a quarter of an hour; layers are kept beside llama.cpp's own build."""
    try:
        check_machine(PYTHON)
    except TunelineError as error:
        pytest.skip(str(error))
    lines: list[str] = []
    build_and_start([image], Path(CACHE) / "images", lines.append)
    names = [line.split(": ")[1] for line in lines if line.startswith(f"{image}: ") and line.endswith(" s")]
    assert [name for name in names if not name.startswith("import")] == started, lines
