"""Files that a target writes for a user to apply: one step a file, in `publish/TARGET` of the run."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tuneline.core.files import write_atomic
from tuneline.publish.target import FILE, Publication, Step, Values, hash_content


def write_steps(publication: Publication, files: Mapping[str, str]) -> list[Step]:
    """Return the writing of each text under its name in the target's folder."""
    return [
        Step(
            key=name,
            shows=f"WRITE {publication.folder / name}",
            content=hash_content(name, text),
            run=partial(_write, publication.folder / name, text),
            body=text,
            repeats=True,  # a file may have been removed or changed since
        )
        for name, text in files.items()
    ]


def removal_steps(values: Values) -> list[Step]:
    """Return the removal of each file that was written."""
    written = [(name.removeprefix(FILE), Path(place)) for name, place in values.items() if name.startswith(FILE)]
    return [
        Step(key=f"remove {name}", shows=f"REMOVE {file}", content=hash_content(str(file)), run=partial(_remove, file))
        for name, file in written
    ]


def _write(file: Path, text: str, _: Values) -> Values:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, text)
    return {f"{FILE}{file.name}": str(file)}


def _remove(file: Path, _: Values) -> None:
    file.unlink(missing_ok=True)
