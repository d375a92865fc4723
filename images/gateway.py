"""Image of the gateway: an HTTP client, limits, metrics, tracing, scikit-learn for tasks; no torch and no engine.

With an assistant in `configs/gateway.yaml` it has the packages that read handlers, and the files that it names.
"""

from pathlib import Path

import modal

from tuneline.configs.gateway import Assistant
from tuneline.images.packages import slim_image, with_locked
from tuneline.images.source import ENVIRONMENT, HOME, with_source
from tuneline.volumes.assistant_files import list_assistant_files

_packages = with_locked(slim_image(), "gateway")
image = with_source(_packages.env(ENVIRONMENT))


def image_for(assistant: Assistant) -> modal.Image:
    """Return the gateway's image for an assistant, which is none without handlers.

    Raises:
        BadRecipe: a file that it names does not exist.
    """
    if not assistant.handlers:
        return image
    complete = with_source(with_locked(_packages, "assistant").env(ENVIRONMENT))
    if not modal.is_local():  # the files are there already
        return complete
    for there, local in list_assistant_files(assistant).items():
        add = complete.add_local_dir if local.is_dir() else complete.add_local_file
        complete = add(local, str(Path(HOME, there)))
    return complete
