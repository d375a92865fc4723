"""What every image ends with: our own files, last, so that a changed line rebuilds no package."""

import modal

from tuneline.core.paths import IMPORTED_FROM, ROOT

FOLDERS = ("configs", "core", "data", "endpoints", "engines", "images", "stages", "volumes")
PACKAGE = "tuneline/__init__.py"
IGNORED = ["**/__pycache__", "**/*.pyc"]
HOME = "/root"
"""Modal puts app.py here and imports from here; our packages are in `tuneline` below it."""

ENVIRONMENT = {
    "HF_XET_HIGH_PERFORMANCE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",  # progress is read while it happens
    "TOKENIZERS_PARALLELISM": "true",
}


def with_source(image: modal.Image) -> modal.Image:
    """`image` and our packages; they are mounted when a container starts, not built into a layer."""
    for folder in FOLDERS:
        image = image.add_local_dir(ROOT / folder, f"{HOME}/tuneline/{folder}", ignore=IGNORED)
    return image.add_local_file(IMPORTED_FROM / PACKAGE, f"{HOME}/{PACKAGE}")


def with_files(image: modal.Image, *files: str) -> modal.Image:
    """`image`, and some of our files in a layer, for what is built of them."""
    for file in (PACKAGE, *(f"tuneline/{file}" for file in files)):
        if (IMPORTED_FROM / file).exists():
            image = image.add_local_file(IMPORTED_FROM / file, f"{HOME}/{file}", copy=True)
    return image
