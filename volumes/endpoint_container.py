"""The engines' container: the engines of what is promoted, which it follows as it changes, for the gateway alone.

Policy is read from a copy on the container's own disk, engines keep no file of a Volume open, and one loop refreshes
both: Modal refuses to reload a Volume with an open or mapped file, and shows an empty one while it does.
"""

import logging
import math
import os
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from tuneline.configs.cloud import Endpoint
from tuneline.configs.hardware import hardware
from tuneline.core import paths
from tuneline.core.terminal import guard_output
from tuneline.engines.vllm.vllm_server import GPU_SHARE
from tuneline.volumes.container_meter import ContainerMeter
from tuneline.volumes.mounts import VOLUMES, commit
from tuneline.volumes.policy_copy import PolicyCopy

if TYPE_CHECKING:
    from tuneline.endpoints.engine_pool import EnginePool

log = logging.getLogger(__name__)

LINGER_S = 60.0
"""How long a replaced version stays after its last request: by then the gateway has seen that the new one answers."""


def start_engines(settings: Endpoint) -> Starlette:
    """Return the app of everything promoted in the endpoint's form, once the engines answer.

    Modal sends requests to a container when this has returned. What cannot be started is logged, and tried again later.
    """
    from tuneline.endpoints.engine_api import EngineApi, build_engine_api

    guard_output()
    policy, engines = PolicyCopy(), make_engine_pool(settings)
    policy.use()
    meter = ContainerMeter("endpoint", "engines", settings.usd_per_hour, paths.logs())

    def refresh() -> None:
        policy.refresh()
        _reload_runs()
        if meter.record():
            commit("logs")

    try:
        policy.copy()  # a container starts with the newest state of its Volumes
        engines.update()
    except Exception:  # one model that does not start must not keep the others from being served
        log.exception("some promoted models cannot be served")
    return build_engine_api(EngineApi(engines, refresh))


def make_engine_pool(settings: Endpoint) -> "EnginePool":
    """Return the engines of an endpoint, with as many threads as cores are paid for: a container sees its machine's."""
    from tuneline.endpoints.engine_pool import EnginePool

    gpus = hardware().parse_gpu(settings.gpu)[1] if settings.gpu else 1
    if settings.form != "gguf":
        os.environ[GPU_SHARE] = str(settings.gpu_share)
    slots, threads = min(4, settings.concurrency), max(1, math.ceil(settings.cores))
    form = (settings.form,)
    return EnginePool(form, slots=slots, gpus=gpus, threads=threads, maps_files=False, linger_s=LINGER_S)


def _reload_runs() -> None:
    """Reload the runs: a promoted run may have been made after this container started."""
    try:
        VOLUMES["runs"].reload()
    except RuntimeError as error:  # an engine that starts has a file of it open; the next look succeeds
        log.warning("runs made since the last check are not visible yet: %s", error)
