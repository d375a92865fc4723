"""The endpoint's container: the gateway, and Volumes that are reloaded before each look at the policy."""

import contextlib

from fastapi import FastAPI

from tuneline.configs.cloud import Endpoint
from tuneline.configs.hardware import hardware
from tuneline.core.terminal import guard_output
from tuneline.volumes.mounts import VOLUMES


def build_endpoint(settings: Endpoint) -> FastAPI:
    """Return the app that serves everything promoted in the endpoint's form."""
    from tuneline.endpoints.engine_pool import EnginePool
    from tuneline.endpoints.gateway import build_gateway

    guard_output()
    gpus = hardware().parse_gpu(settings.gpu)[1] if settings.gpu else 1
    engines = EnginePool((settings.form,), slots=min(4, settings.concurrency), gpus=gpus)
    return build_gateway(engines, refresh=_reload_volumes)


def _reload_volumes() -> None:
    """Reload the policy and the runs: a promoted run may have been made after this container started."""
    VOLUMES["policy"].reload()
    with contextlib.suppress(RuntimeError):  # an engine has a file of it open
        VOLUMES["runs"].reload()
