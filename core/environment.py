"""Every environment variable that is read: its default and its meaning, and the one place that reads it.

docs/settings.md has the same tables; a test compares them, and finds whoever reads a variable elsewhere.
"""

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tuneline.core.errors import BadRequest

PREFIX, OF_TESTS = "TUNELINE_", "TUNELINE_TEST_"


@dataclass(frozen=True)
class Variable:
    """What a variable is for."""

    meaning: str
    default: str = "–"
    """In words; "–" is none."""
    check: Callable[[str], bool] = lambda value: True
    """Whether a value that is not empty can be meant."""
    expected: str = ""
    """What a value is that can be."""


def _is_number(low: float, high: float) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        try:
            return low <= float(value) <= high and math.isfinite(float(value))
        except ValueError:
            return False

    return check


OURS: Mapping[str, Variable] = {
    "TUNELINE_RUNS": Variable("folder of all runs", "`.runs`"),
    "TUNELINE_MODELS": Variable("folder of base models, shared by runs", "`.models`"),
    "TUNELINE_CACHE": Variable(
        "folder of what can be made again: llama.cpp, environments, paid answers, questions typed in `chat`", "`.cache`"
    ),
    "TUNELINE_POLICY": Variable("folder of promotions, keys and traffic records", "`.policy`"),
    "TUNELINE_LOGS": Variable("folder of the gateway's request log", "`.logs`"),
    "TUNELINE_UI": Variable("folder of the page's conversations and ballots ([ui](ui.md))", "`.ui`"),
    "TUNELINE_SCORES": Variable("folder of scheduled evaluations", "`.scores`"),
    "TUNELINE_CLOUD": Variable("the file that says what is deployed on Modal", "`configs/cloud.yaml`"),
    "TUNELINE_API_KEY": Variable("key that `tuneline serve` requires and `chat` and `load` send"),
    "TUNELINE_BASE_URL": Variable("the server for which `TUNELINE_API_KEY` is meant"),
    "TUNELINE_USD_PER_HOUR": Variable(
        "price of this machine; `compute.max_cost_usd` and `tuneline load` use it",
        check=_is_number(0, math.inf),
        expected="a price in USD per hour is expected, as in 2.99",
    ),
    "TUNELINE_HARDWARE": Variable("a YAML file with your prices and GPUs, on top of `configs/hardware.yaml`"),
    "TUNELINE_HOSTS": Variable("a YAML file with your hosts' rules, on top of `configs/hosts.yaml`"),
    "TUNELINE_WEBHOOK": Variable("URL that is notified when a run ends, a score falls or traffic goes back"),
    "TUNELINE_SCRATCH": Variable("local folder for large unfinished files of a conversion", "beside the artifact"),
    "TUNELINE_GPU_SHARE": Variable(
        "share of a GPU's memory that one vLLM takes",
        "vLLM's own",
        check=_is_number(0.01, 1),
        expected="a share from 0.01 to 1",
    ),
    "TUNELINE_VLLM": Variable("the `vllm` executable", "beside this Python, or on PATH"),
    "TUNELINE_GUIDELLM": Variable("the `guidellm` executable for `tuneline load`", "`.load`, or on PATH"),
    "TUNELINE_TORCHRUN": Variable("arguments of torchrun, for several nodes", "`--standalone`"),
    "TUNELINE_PROXY_KEY": Variable("id of Modal's proxy token, with which the gateway reaches the engines"),
    "TUNELINE_PROXY_SECRET": Variable("the proxy token's secret"),
    "TUNELINE_CALL_HOURS": Variable(
        "hours after which a call on Modal hands over to a successor",
        "23",
        check=_is_number(0, 23),
        expected="hours, at most 23",
    ),
    "TUNELINE_LLAMA_PORTABLE": Variable(
        "1 builds llama.cpp for any x86-64-v3 processor", check=lambda value: value in "01", expected="0 or 1"
    ),
    "TUNELINE_LIVE": Variable("1 lets `tests/live` use your Modal account"),
    "TUNELINE_COMPARISONS": Variable("comparisons drawn by `benchmarks/intervals.py`", "2000"),
}
OF_CHILD_PROCESSES = ("TUNELINE_STRATEGY", "TUNELINE_KERNELS", "TUNELINE_PLACEHOLDER_DISKS", "TUNELINE_COMMIT")
"""Set by us for processes of ours."""
OF_OTHERS: Mapping[str, str] = {
    "HF_TOKEN": "key of the hub, for gated bases",
    "HF_ENDPOINT": "the hub's own setting: a mirror",
    "HF_HUB_OFFLINE": "the hub's own setting: no network",
    "WANDB_API_KEY": "W&B's key: with it runs are logged there",
    "WANDB_MODE": "W&B's own setting: `offline` logs without a key, `disabled` not at all",
    "WANDB_BASE_URL": "W&B's own setting: your server",
    "MODAL_TOKEN_ID": "Modal's own setting, in place of `~/.modal.toml`",
    "TORCH_INDEX": "the index that `make setup` takes PyTorch from ([packages](packages.md)); pip's own without it",
    "TORCH_LOCK": "the hashes of PyTorch's builds, in place of `requirements/torch.txt`",
    "CXX": "the C++ compiler that builds llama.cpp",
    "CUDA_HOME": "where CUDA is, for vLLM's compiler",
    "CUDA_PATH": "the same, if `CUDA_HOME` is not set",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "where the gateway's spans are sent; none are made without it",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "the same, for spans alone",
    "OTEL_SERVICE_NAME": "the gateway's name in spans",
    "PYTHONPATH": "Python's own, passed on to processes of ours",
    "PIP_CONFIG_FILE": "pip's own: where the rehearsal looks for the index of packages",
    "RANK": "set by torchrun",
    "LOCAL_RANK": "set by torchrun",
    "WORLD_SIZE": "set by torchrun",
}
LLAMAHOME: Mapping[str, str] = {
    "LLAMA_MODEL": "`base` in a recipe, or `tuneline train BASE --data FILE`; `tuneline models ls` lists them",
    "LLAMA_MODEL_SIZE": "a part of the base's name, as in llama-3.3-70b-instruct",
    "LLAMA_MODEL_VARIANT": "a part of the base's name, as in llama-3.3-70b-instruct",
    "LLAMA_MODEL_QUANT": "`serve.type` and `convert.types` in a recipe, as Q4_K_M; `train.method: qlora` for training",
    "LLAMA_NUM_GPU_LAYERS": "nothing: GGUF files are served by cores; `serve.form: adapter` or `merged` by a GPU",
    "LLAMA_MAX_SEQ_LEN": "`data.max_tokens` for training, `serve.context` for serving",
    "LLAMA_MAX_BATCH_SIZE": "`train.batch_rows` for training, `endpoint.concurrency` in cloud.yaml for serving",
    "LLAMAHOME_ENV": "nothing: there is one way to run",
    "LLAMAHOME_BATCH_SIZE": "`train.batch_rows` in a recipe",
    "LLAMAHOME_MAX_WORKERS": "`compute.threads` in a recipe",
    "LLAMAHOME_CACHE_SIZE": "nothing: the folder `TUNELINE_CACHE` has no limit and may be deleted",
}
"""LlamaHome's variables, each with what does the same here."""
KNOWN = OURS.keys() | set(OF_CHILD_PROCESSES) | OF_OTHERS.keys()


def read_variable(name: str, default: str = "") -> str:
    """Return the value of a variable that is listed above, `default` if it is not set."""
    assert name in KNOWN, f"{name}: list it in core/environment.py"
    return os.environ.get(name, default)


def read_stated_variable(name: str) -> str:
    """Return the value of a variable that a user's file or a table names, without spaces around it; "" if not set."""
    return os.environ.get(name, "").strip()


def is_set(name: str) -> bool:
    """Return whether a variable that is listed above is set, empty or not."""
    assert name in KNOWN, f"{name}: list it in core/environment.py"
    return name in os.environ


def check_environment() -> None:
    """Check the variables that are ours; called first by a command.

    Raises:
        BadRequest: one is unknown, or has a value that it cannot have.
    """
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and not name.startswith(OF_TESTS) and name not in KNOWN:
            close = difflib.get_close_matches(name, OURS, 1, 0.6)
            hint = f"did you mean {close[0]}? " if close else ""
            raise BadRequest(f"{name}: no setting of ours; {hint}docs/settings.md lists them all")
        value = os.environ[name]
        if name in OURS and value and not OURS[name].check(value):
            raise BadRequest(f"{name}={value}: {OURS[name].expected}")


def list_llamahome_names() -> dict[str, str]:
    """Return each of LlamaHome's variables that is set, with what does the same here."""
    return {name: ours for name, ours in LLAMAHOME.items() if name in os.environ}
