"""What hosts of adapters have in common: the adapter's files and settings, the base's name there, and archives."""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from tuneline.configs.hosts import find_base_name
from tuneline.configs.publish import Deployment
from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import BadRecipe, BadRequest, StageFailed
from tuneline.core.files import TEMPORARY
from tuneline.core.formatting import format_bytes
from tuneline.publish.run_files import RunFile, list_stage_files
from tuneline.publish.target import Publication, Step, Values, hash_content
from tuneline.stages.prepare.prepared_run import TEMPLATE

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ANSWERS_OF = "tuned-F16"
"""The evaluated target with an adapter's weights in 16 bit."""


def list_adapter(publication: Publication) -> list[RunFile]:
    """Return the two files that every host of adapters takes: settings and weights.

    Raises:
        BadRecipe: the run has no adapter. StageFailed: a file has changed since it was made.
    """
    files = {file.name: file for file in list_stage_files(publication.run, "train", "adapter")}
    if not {SETTINGS, WEIGHTS} <= files.keys():
        raise BadRecipe(f"{publication.run.name}: train.method {publication.recipe.train.method} makes no adapter")
    return [files[SETTINGS], files[WEIGHTS]]


def read_settings(files: list[RunFile]) -> dict[str, Any]:
    """Return the adapter's `adapter_config.json`.

    Raises:
        StageFailed: it is damaged.
    """
    try:
        settings = json.loads(files[0].path.read_text("utf-8"))
        return {"r": int(settings["r"]), "target_modules": list(settings.get("target_modules") or [])}
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"{files[0].path}: no settings of an adapter: {error}; train it again") from None


def read_template(publication: Publication) -> str | None:
    """Return the tuned model's chat template, or None if it is the base's own."""
    files = list_stage_files(publication.run, "prepare", TEMPLATE)
    return files[0].path.read_text("utf-8") if files else None


def base_at_host(publication: Publication) -> str:
    """Return the host's own name of the run's base: `base` in the target's section, else that of hosts.yaml.

    Raises:
        BadRecipe: neither has one.
    """
    name = find_base_name(publication.recipe, publication.target)
    if name is None:
        raise BadRecipe(f"publish.{publication.target}.base: state what {publication.host.title} calls the base")
    return name


def name_version(publication: Publication, files: list[RunFile]) -> str:
    """Return a name for these weights: `model` of the target's section, or the run's, and 8 digits of their SHA-256.

    A host that has a model of this name has this content.
    """
    name = publication.settings.model or re.sub(r"[^a-z0-9]+", "-", publication.run.name.lower()).strip("-")
    return f"{name}-{hash_content([file.sha256 for file in files])[:8]}"


def refuse_other_version(publication: Publication, name: str, values: Values) -> None:
    """Raise BadRequest if another version of the run is published: nothing would take it back later."""
    if values.get("model", name) != name:
        raise BadRequest(
            f"{publication.run.name}: {values['model']} is published to {publication.target}, of other weights or by "
            f"another name; take it back first: `tuneline publish {publication.run.name} --from {publication.target}`"
        )


def read_account(variable: str, stated: str | None, setting: str) -> str:
    """Return an account's or a project's id: the recipe's, else that of the environment.

    Raises:
        BadRecipe: neither has one.
    """
    account = stated or read_stated_variable(variable)
    if not account:
        raise BadRecipe(f"{setting}: state it, or `export {variable}=…`")
    return account


def archive_file(publication: Publication, files: list[RunFile]) -> Path:
    """Return where the adapter's archive is written: a name of its content, so that another one is another file."""
    return publication.folder / f"{name_version(publication, files)}.zip"


def archive_step(publication: Publication, files: list[RunFile]) -> Step:
    """Return the step that writes the adapter's archive."""
    target = archive_file(publication, files)

    def run(_: Values) -> None:
        write_archive(files, target)

    return Step(
        key="archive",
        shows=f"write {target} ({format_bytes(sum(file.bytes for file in files))})",
        content=hash_content(str(target)),
        run=run,
        body="\n".join(file.name for file in files),
        repeats=True,  # it may have been removed since
    )


def write_archive(files: list[RunFile], target: Path) -> Path:
    """Return a zip of files at its root, written if it is not there; the same files give the same bytes."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}{TEMPORARY}")
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:  # weights do not compress
            for file in files:
                entry = zipfile.ZipInfo(file.name)
                with file.path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        temporary.replace(target)
    return target


def explain_hourly_cost(publication: Publication, deployment: Deployment | None) -> str:
    """Return what a deployment costs at most; empty without one.

    Raises:
        BadRequest: its price is not known.
    """
    if deployment is None:
        return ""
    price = deployment.usd_per_gpu_hour or publication.host.usd_per_hour.get(deployment.gpu)
    if price is None:
        raise BadRequest(
            f"publish.{publication.target}.deployment.usd_per_gpu_hour: state the price of {deployment.gpu} from "
            f"{publication.host.prices or publication.host.title}, so that a bound can be stated"
        )
    hourly = price * deployment.gpus
    return (
        f"{deployment.gpus} × {deployment.gpu} cost at most {hourly:.2f} USD per hour, {24 * hourly:.2f} per day, as "
        f"long as requests come; {deployment.idle_minutes} minutes after the last one they stop by themselves; "
        f"`--from {publication.target}` ends them"
    )
