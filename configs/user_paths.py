"""Paths in the files that users write: relative ones start from the folder of the file that names them."""

import logging
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from tuneline.core.paths import ROOT

log = logging.getLogger(__name__)


class LocatedText(str):
    """A text of a user's file, with the folder that a relative path in it starts from."""

    folder: Path

    def __new__(cls, text: str, folder: Path) -> "LocatedText":
        located = super().__new__(cls, text)
        located.folder = folder
        return located


def locate_texts(value: Any, folder: Path) -> Any:
    """Return a YAML value with `folder` attached to each of its texts; keys stay as they are."""
    if isinstance(value, LocatedText):
        return value
    if isinstance(value, str):
        return LocatedText(value, folder)
    if isinstance(value, dict):
        return {key: locate_texts(item, folder) for key, item in value.items()}
    return [locate_texts(item, folder) for item in value] if isinstance(value, list) else value


def locate(value: Any) -> Any:
    """Return where a path of a user's file leads: beside that file, else in the current folder, which is logged.

    A path that is in neither stays relative, for `paths.resolve` to find it in Tuneline's own folder; what is not from
    a file (`LocatedText`) is returned as it is.

    Raises:
        ValueError: no file system could have such a path.
    """
    if not isinstance(value, LocatedText):
        return value
    try:
        path = Path(value).expanduser()
        if (value.folder / path).exists():
            return (value.folder / path).absolute()
        if Path.cwd() != ROOT and path.exists():
            log.warning("%s: not in %s; taken from the current folder", path, value.folder)
            return path.absolute()
    except (OSError, RuntimeError) as error:  # too long, no right to look, or `~name` of a user who does not exist
        raise ValueError(getattr(error, "strerror", None) or str(error)) from None
    return path


def locate_folder(value: Any) -> Any:
    """Return the absolute path of a folder beside the file that names it, as text; any other value as it is."""
    path = locate(value) if isinstance(value, LocatedText) and value != "tiny" else None
    return str(path) if path is not None and path.is_absolute() and path.is_dir() else value


UserPath = Annotated[Path, BeforeValidator(locate)]
"""A path in a recipe or a suite."""
