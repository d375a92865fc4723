"""llama.cpp as an image compiles it against the one compiled for this machine: prompt and output tokens a second.

One thread, a made Llama of 0.1 B parameters in Q4_K_M, through llama-server, each build in turn. The build of an image
is compiled first if it is not in the cache: about ten minutes on two cores.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.random_llama import save_random_llama
from benchmarks.common.rounds import in_turn, median_ratio, print_result, print_table
from tuneline.engines.llama_cpp import build, llama_server
from tuneline.engines.llama_cpp.build import LlamaCpp, find_llama_cpp
from tuneline.stages.convert.task import GgufOutput, Task
from tuneline.stages.convert.worker import run

TARGET = 0.7
"""Share of the machine's own speed that the image keeps; without AVX2 it kept a twentieth."""
PROMPT_TOKENS, OUTPUT_TOKENS, ROUNDS = 256, 48, 5
SPEEDS = {"prompt": "prompt_per_second", "output": "predicted_per_second"}
"""llama-server's own timings of a completion (tools/server/README.md)."""


def main() -> None:
    """Print both speeds of both builds, and the lowest ratio of image to machine."""
    builds = {"machine": find_llama_cpp(), "image": _build_as_an_image_does()}
    with tempfile.TemporaryDirectory() as scratch:
        gguf = _make_gguf(Path(scratch))
        ratios = [_compare(builds, gguf, Path(scratch), kind) for kind in SPEEDS]
    print_result("llama_image", min(ratios), TARGET, met=min(ratios) >= TARGET)


def _build_as_an_image_does() -> LlamaCpp:
    subprocess.run(
        [sys.executable, "-m", "tuneline.engines.llama_cpp.build"], env=os.environ | {build.PORTABLE: "1"}, check=True
    )
    with mock.patch.dict(os.environ, {build.PORTABLE: "1"}):
        return build.build()  # built already: its paths


def _make_gguf(folder: Path) -> Path:
    base, _ = save_random_llama(folder, 0.1)
    gguf = folder / "model.gguf"
    (folder / "scratch").mkdir()
    output = GgufOutput(path=gguf, kind="Q4_K_M", name="random", tuned=False)
    run(Task(base=base, scratch=folder / "scratch", outputs=(output,), threads=2), lambda **_: None)
    return gguf


def _compare(builds: dict[str, LlamaCpp], gguf: Path, scratch: Path, kind: str) -> float:
    """Return the image's tokens a second as a share of the machine's."""
    values = in_turn(
        {name: lambda llama=llama: _measure(llama, gguf, scratch, kind) for name, llama in builds.items()}, ROUNDS
    )
    print_table({f"{kind}, {name}": measured for name, measured in values.items()}, "tokens/s")
    return median_ratio(values["image"], values["machine"])


def _measure(llama: LlamaCpp, gguf: Path, scratch: Path, kind: str) -> float:
    with (
        mock.patch.object(llama_server, "find_llama_cpp", lambda: llama),
        llama_server.start_llama_server(
            gguf, alias="m", log=scratch / "log", context=PROMPT_TOKENS + OUTPUT_TOKENS + 8, threads=1
        ) as server,
    ):
        body = {"prompt": list(range(300, 300 + PROMPT_TOKENS)), "n_predict": OUTPUT_TOKENS, "ignore_eos": True}
        url = server.base_url.removesuffix("/v1") + "/completion"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            timings: dict[str, Any] = json.load(response)["timings"]
    return float(timings[SPEEDS[kind]])


if __name__ == "__main__":
    main()
