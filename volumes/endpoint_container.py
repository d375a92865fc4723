"""The endpoint's container: the front door, and a policy Volume that is looked at again and again."""

import contextlib

from fastapi import FastAPI

from tuneline.configs.cloud import Endpoint
from tuneline.configs.hardware import hardware
from tuneline.volumes import VOLUMES


def promoted_front(settings: Endpoint) -> FastAPI:
    """The app that answers for everything promoted in the endpoint's form."""
    from tuneline.endpoints.engine_pool import Engines
    from tuneline.endpoints.gateway import front

    gpus = hardware().parse_gpu(settings.gpu)[1] if settings.gpu else 1
    engines = Engines((settings.form,), slots=min(4, settings.concurrency), gpus=gpus)
    return front(engines, fresh=_fresh)


def _fresh() -> None:
    """Runs are reloaded as well: what was promoted may have been made after this container started."""
    VOLUMES["policy"].reload()
    with contextlib.suppress(RuntimeError):  # an engine has a file of it open
        VOLUMES["runs"].reload()
