"""Our own source in the images: added last, so that a changed line rebuilds no package."""

import modal

from tuneline.core.paths import IMPORTED_FROM, ROOT

FOLDERS = ("configs", "core", "data", "endpoints", "engines", "images", "stages", "volumes")
PACKAGE = "tuneline/__init__.py"
IGNORED = ["**/__pycache__", "**/*.pyc"]
HOME = "/root"
"""Where Modal puts app.py and imports from; our packages are in `tuneline` below it."""

ENVIRONMENT = {
    "HF_XET_HIGH_PERFORMANCE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",  # progress is read as it is printed
    "TOKENIZERS_PARALLELISM": "true",
}


def with_source(image: modal.Image) -> modal.Image:
    """Return `image` with our packages, which are mounted when a container starts, not built into a layer."""
    for folder in FOLDERS:
        image = image.add_local_dir(ROOT / folder, f"{HOME}/tuneline/{folder}", ignore=IGNORED)
    return image.add_local_file(IMPORTED_FROM / PACKAGE, f"{HOME}/{PACKAGE}")


def with_files(image: modal.Image, *files: str) -> modal.Image:
    """Return `image` with some of our files in a layer, for later build commands."""
    for file in (PACKAGE, *(f"tuneline/{file}" for file in files)):
        if (IMPORTED_FROM / file).exists():
            image = image.add_local_file(IMPORTED_FROM / file, f"{HOME}/{file}", copy=True)
    return image
