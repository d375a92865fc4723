"""What every image ends with: our own files, last, so that a changed line rebuilds no package."""

from pathlib import Path

import modal

ROOT = Path(__file__).parents[1]
FOLDERS = ("configs", "data", "endpoints", "images", "stages", "volumes")
IGNORED = ["**/__pycache__", "**/*.pyc"]
HOME = "/root"
"""Modal puts app.py here and imports from here."""

ENVIRONMENT = {
    "HF_XET_HIGH_PERFORMANCE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",  # progress is read while it happens
    "TOKENIZERS_PARALLELISM": "true",
}


def with_source(image: modal.Image) -> modal.Image:
    """`image` and our packages; they are mounted when a container starts, not built into a layer."""
    for folder in FOLDERS:
        image = image.add_local_dir(ROOT / folder, f"{HOME}/{folder}", ignore=IGNORED)
    for file in ("terminal.py", "pyproject.toml"):
        image = image.add_local_file(ROOT / file, f"{HOME}/{file}")
    return image


def with_files(image: modal.Image, *files: str) -> modal.Image:
    """`image`, and some of our files in a layer, for what is built of them."""
    for file in files:
        if (ROOT / file).exists():
            image = image.add_local_file(ROOT / file, f"{HOME}/{file}", copy=True)
    return image
