"""Our own source in the images: added last, so that a changed line rebuilds no package."""

import modal

from tuneline.configs.cloud import FILE
from tuneline.configs.cloud import VARIABLE as CLOUD_VARIABLE
from tuneline.core.environment import read_variable
from tuneline.core.paths import IMPORTED_FROM, ROOT

FOLDERS = ("configs", "core", "data", "endpoints", "engines", "images", "requirements", "stages", "volumes")
"""What is imported or read in a container; of `data` only what code reads by itself (`DATA`)."""
DATA = ("data/tiny", "data/synthesis")
"""The tiny base, and the phrases for catalogues. The files that a recipe names go to the data Volume."""
PACKAGE = "tuneline/__init__.py"
IGNORED = ["**/__pycache__", "**/*.pyc"]
HOME = "/root"
"""Where Modal puts app.py and imports from; our packages are in `tuneline` below it."""
CLOUD_FILE = f"{HOME}/cloud.yaml"
"""Where containers read what `TUNELINE_CLOUD` named on the machine that deployed them."""

ENVIRONMENT = {
    "HF_XET_HIGH_PERFORMANCE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",  # progress is read as it is printed
    "TOKENIZERS_PARALLELISM": "true",
}


def with_source(image: modal.Image, *more: str) -> modal.Image:
    """Return `image` with our packages, which are mounted when a container starts, not built into a layer.

    `more` are packages that only this image has.
    """
    stated = read_variable(CLOUD_VARIABLE)
    if stated:  # a step of the build, so before the files that are mounted
        image = image.env({CLOUD_VARIABLE: CLOUD_FILE})
    for folder in (*(name for name in FOLDERS if name != "data"), *DATA, *more):
        image = image.add_local_dir(ROOT / folder, f"{HOME}/tuneline/{folder}", ignore=IGNORED)
    if stated:
        image = image.add_local_file(FILE, CLOUD_FILE)
    return image.add_local_file(IMPORTED_FROM / PACKAGE, f"{HOME}/{PACKAGE}")


def with_files(image: modal.Image, *files: str) -> modal.Image:
    """Return `image` with some of our files in a layer, for later build commands."""
    for file in (PACKAGE, *(f"tuneline/{file}" for file in files)):
        if (IMPORTED_FROM / file).exists():
            image = image.add_local_file(IMPORTED_FROM / file, f"{HOME}/{file}", copy=True)
    return image
