"""Writes a base of an older kind as Tuneline takes it: safetensors, a fast tokenizer, 16-bit weights."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from tuneline.core.child_processes import child_process, describe_exit, last_lines
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.stages.fetch.model_files import ADAPTER_CONFIG, refuse_unusable

COPIED = ("generation_config.json", "chat_template.jinja")


def import_base(source: Path, target: Path) -> None:
    """Write the model in the folder `source` to the new folder `target`; all of it, or nothing.

    Its weights may be pickles (`pytorch_model*.bin`), without `model.` before their names, or in bitsandbytes' 4 or 8
    bit; its tokenizer may be a tokenizer.model. It is held in memory once.

    Raises:
        NotFound: there is no such folder. BadRequest: `target` exists.
        BadRecipe: it cannot be read, weights are missing, or the result is no base.
        StageFailed: the process was killed.
    """
    if not source.is_dir():
        raise NotFound(f"{source}: no such folder")
    if target.exists():
        raise BadRequest(f"{target}: exists; name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=target.parent) as scratch:
        inputs, draft = Path(scratch) / "inputs", Path(scratch) / "base"
        _link_without_adapter(source, inputs)
        _run_worker(inputs, draft, source)
        for name in COPIED:
            if (source / name).is_file() and not (draft / name).exists():
                shutil.copyfile(source / name, draft / name)
        refuse_unusable(draft)
        draft.rename(target)


def _link_without_adapter(source: Path, inputs: Path) -> None:
    """Make a folder of links to the files of `source`, without an adapter, which would be loaded with the base."""
    inputs.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.name != ADAPTER_CONFIG and file.suffix != ".py":
            (inputs / file.name).symlink_to(file.resolve())


def _run_worker(inputs: Path, target: Path, source: Path) -> None:
    request = json.dumps({"source": str(inputs), "target": str(target), "name": str(source)})
    with (
        tempfile.TemporaryFile() as log,
        child_process(
            "tuneline.stages.fetch.import_worker", request=request, stdout=subprocess.DEVNULL, stderr=log
        ) as child,
    ):
        code = child.process.wait()
        child.outcome()
        log.seek(0)
        if code:
            tail = last_lines(log.read().decode(errors="replace"), 8)
            raise StageFailed(f"importing {source} {describe_exit(code)}:\n{tail}")
