"""The settings of a running gateway: `gateway.yaml`, read again when it changes. A broken edit changes nothing."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tuneline.configs.gateway import OTHER, Gateway, read_gateway
from tuneline.core.errors import TunelineError

if TYPE_CHECKING:
    from tuneline.endpoints.gateway.task_classifier import TaskClassifier

log = logging.getLogger(__name__)


class SettingsFile:
    """The last good content of the file."""

    def __init__(self, file: Path) -> None:
        """Raises BadRecipe if the file is not good to begin with."""
        self._file = file
        self._stamp = self._read_stamp()
        self.current: Gateway = read_gateway(file)
        self._classifier = _train(self.current)
        self.mistake = ""
        """What is wrong with the file now; empty if it is what counts."""

    def refresh(self) -> bool:
        """Read the file if it has changed, and return whether other settings count now."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        try:
            settings = read_gateway(self._file)
            if settings.recognition != self.current.recognition:
                self._classifier = _train(settings)
        except TunelineError as error:  # looked at again: it may be what it names that cannot be read for now
            if self.mistake != str(error):
                log.error("keeping the previous settings: %s", error)
            self.mistake = str(error)
            return False
        self._stamp = stamp
        self.mistake, changed = "", settings != self.current
        self.current = settings
        return changed

    def recognize(self, text: str) -> str:
        """Return the task of a request's text, or `other`."""
        return self._classifier.recognize(text) if self._classifier else OTHER

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def _train(settings: Gateway) -> "TaskClassifier | None":
    """Return the classifier of tasks, or None if no file has examples."""
    if not settings.recognition.tasks:
        return None
    from tuneline.endpoints.gateway.task_classifier import TaskClassifier

    return TaskClassifier(settings.recognition)
