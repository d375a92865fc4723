"""Nothing heavy is imported before it is needed, and no stage knows Modal."""

import subprocess
import sys

from tuneline.core.paths import ROOT

BLOCKED = ("torch", "transformers", "modal", "peft", "trl", "bitsandbytes", "openai", "huggingface_hub", "sklearn")
LIGHT = {
    *("tuneline.stages.train.loop.checkpoints", "tuneline.stages.train.loop.flops"),
    *("tuneline.stages.train.model.adapter_targets", "tuneline.stages.train.model.parameter_count"),
    *("tuneline.stages.train.job", "tuneline.stages.train.launcher", "tuneline.stages.train.worker"),
    *("tuneline.stages.train.distributed.device_memory", "tuneline.stages.train.distributed.placement"),
}
"""The rest of tuneline.stages.train runs inside the trainer; only the train stage imports it, once it has started."""
EXTRA = {
    *("tuneline.stages.evaluate.clients.inspect_tasks", "tuneline.engines.vllm.llama4_tool_parser"),
    "tuneline.publish.space_page.app",
}
"""Read by a command of its own extra, `inspect`; by vLLM, as a plugin; in a Space, which has gradio."""
IMPORT = """
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} is imported at module level")
sys.meta_path.insert(0, Block())
for module in sys.argv[2:]:
    try:
        importlib.import_module(module)
    except Exception as error:
        sys.exit(f"{module}: {error!r}")
"""


def modules() -> list[str]:
    files = [
        f
        for folder in ("cli", "configs", "core", "endpoints", "engines", "publish", "stages")
        for f in (ROOT / folder).rglob("*.py")
    ]
    names = [
        ".".join(("tuneline", *f.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__") for f in files
    ]
    names = [name for name in names if name not in EXTRA]
    return sorted(
        n for n in names if not n.endswith("__main__") and (n in LIGHT or not n.startswith("tuneline.stages.train."))
    )


def test_every_module_imports_without_what_is_heavy() -> None:
    assert len(modules()) > 10
    command = [sys.executable, "-c", IMPORT, ",".join(BLOCKED), *modules()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
