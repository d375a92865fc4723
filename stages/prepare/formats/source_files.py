"""The files of a source: which are trained on, which validate, which are held out, and which are no data."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tuneline.stages.prepare.formats.containers import SUFFIXES, uncompressed_suffix

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_SPLITS = (
    (TRAIN, re.compile(r"(?:^|[^a-z0-9])(?:train|training)(?:$|[^a-z0-9])")),
    (VALIDATION, re.compile(r"(?:^|[^a-z0-9])(?:validation|valid|val|dev)(?:$|[^a-z0-9])")),
    (TEST, re.compile(r"(?:^|[^a-z0-9])(?:test|testing|eval|evaluation|heldout|held|holdout)(?:$|[^a-z0-9])")),
)
"""The names of splits in those of files and folders, as the Hugging Face hub knows them."""
_DOCUMENTS = re.compile(
    r"(?:readme|licen[cs]e|copying|notice|citation|changelog|contributing|code_of_conduct|security|authors)"
    r"(?:[-_.].*)?",
    re.I,
)
_ARROW_METADATA = ("state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")


@dataclass(frozen=True)
class SourceFile:
    """A file with rows or text, and the split it is of."""

    path: Path
    split: str = TRAIN


@dataclass(frozen=True)
class SourceFiles:
    """What is at the path of a source."""

    files: list[SourceFile]
    skipped: list[tuple[Path, str]]
    """Files that are not read, each with the reason."""
    has_splits: bool = False
    """Whether the names of files or folders say what is for training."""

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]


def list_source_files(root: Path) -> SourceFiles:
    """Return the files at a path: the file itself, or all files below a folder, in the order of their names."""
    if root.is_file():
        return SourceFiles([SourceFile(root)], [])
    skipped: list[tuple[Path, str]] = []
    data: list[Path] = []
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        parts = file.relative_to(root).parts
        if any(part.startswith(".") for part in parts) or file.name in _ARROW_METADATA:
            continue
        if reason := _reason_to_skip(file):
            skipped.append((file, reason))
        else:
            data.append(file)
    splits = {file: _split_of(file.relative_to(root)) for file in data}
    has_splits = any(split in (VALIDATION, TEST) for split in splits.values())
    has_splits = has_splits and any(split not in (VALIDATION, TEST) for split in splits.values())
    files = [SourceFile(file, (splits[file] or TRAIN) if has_splits else TRAIN) for file in data]
    return SourceFiles(files, skipped, has_splits)


def _reason_to_skip(file: Path) -> str:
    suffix = uncompressed_suffix(file)
    if suffix in ("", ".md", ".txt", ".rst", ".cff") and _DOCUMENTS.fullmatch(file.name):
        return "documentation, judging by its name"
    if suffix not in SUFFIXES:
        return f"unknown format: {file.suffix or 'a file without suffix'}"
    if suffix == ".arrow" and file.name not in (_arrow_files(file.parent) or (file.name,)):
        return "the state.json beside it does not name it"
    return ""


def _arrow_files(folder: Path) -> tuple[str, ...]:
    """Return the files of the dataset that `save_to_disk` wrote here, or an empty tuple."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        return tuple(str(entry["filename"]) for entry in state["_data_files"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _split_of(path: Path) -> str:
    """Return the split that the name of a file, or else of a folder above it, is of; empty if none is."""
    for part in reversed(path.parts):
        name = part.lower()
        for split, pattern in _SPLITS:
            if pattern.search(name):
                return split
    return ""
