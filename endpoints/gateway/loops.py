"""Loops that run beside the requests: one that ends takes the process with it, so that another one is started."""

import asyncio
import logging
import os
import signal
from typing import Any

log = logging.getLogger(__name__)


def end_process_with(task: asyncio.Task[Any]) -> None:
    """End the process because `task` has ended: whoever restarts it brings back one that follows."""
    log.critical("a loop ended: %r", task.exception() if not task.cancelled() else "cancelled")
    os.kill(os.getpid(), signal.SIGTERM)
