"""`python -m tuneline.images NAME…` builds images by themselves, such as `cpu` or `train.on_cpu` (docs/modal.md).

It deploys an app with an idle Function for each, which costs nothing; `modal app stop tuneline-images` removes it.
Later commands find what they need already built.
"""

import sys
from importlib import import_module

import modal

APP = "tuneline-images"


def find_image(name: str) -> modal.Image:
    """Return the image called `name`: a module of `images/`, and with `.ATTRIBUTE` another than its `image`."""
    module, _, attribute = name.partition(".")
    image: modal.Image = getattr(import_module(f"tuneline.images.{module}"), attribute or "image")
    return image


def idle() -> None:
    """Do nothing: only this Function's image is of interest."""


def main(names: list[str]) -> None:
    """Deploy an app that needs these images."""
    app = modal.App(APP)
    for name in names:
        app.function(image=find_image(name), name=name)(idle)
    app.deploy()


if __name__ == "__main__":
    main(sys.argv[1:])
