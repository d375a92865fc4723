"""llama.cpp as an image compiles it."""

import platform
import re
from pathlib import Path

import pytest

from tuneline.engines.llama_cpp import build


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the images' instruction sets are those of x86-64")
def test_ggml_is_configured_for_the_instruction_sets_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By CMake itself; SOURCE_DATE_EPOCH in the environment turned all of them off."""
    source = build.find_llama_cpp().source
    monkeypatch.setenv(build.PORTABLE, "1")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    build._run(
        build._cmake(),
        "-S",
        str(build.CMAKE_PROJECT),
        "-B",
        str(tmp_path),
        f"-DLLAMA_CPP_SOURCE={source}",
        *build.list_flags(),
    )
    cache = (tmp_path / "CMakeCache.txt").read_text()
    on = set(re.findall(r"^GGML_(SSE42|AVX|AVX2|BMI2|FMA|F16C|NATIVE|AVX512):BOOL=ON$", cache, re.M))
    assert on == {"SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C"}
    commands = " ".join(file.read_text() for file in tmp_path.rglob("ggml-cpu.dir/flags.make"))
    assert all(f" -m{name}" in commands for name in ("avx2", "fma", "f16c")) and "-march=native" not in commands
