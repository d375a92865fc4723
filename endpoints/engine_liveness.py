"""Whether an engine answers. A process that is there, with a port that is open, may answer nobody.

An engine that no caller had an answer of for a while is asked for one token. One that answers neither that nor computes
for anybody else is hung, and is to be restarted.
"""

import contextlib
import json
import threading
import time
import urllib.error
from http.client import HTTPException

from tuneline.core.web_requests import open_url

EVERY_S = 15.0
"""After this long without an answer to a caller, an engine is asked."""
PATIENCE_S = 120.0
"""Longest time for one token. llama.cpp takes prompts in batches of 2,048 tokens, in which it answers nothing else."""
FAILURES = 3
"""After this many errors of its own in a row (5xx, or what is no HTTP), an engine counts as hung."""
COUNTERS = (
    "llamacpp:n_decode_total",
    "llamacpp:prompt_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
)
"""What grows while an engine works for somebody (llama.cpp: server README; vLLM: "Production Metrics")."""
METRICS_BYTES = 4 << 20


class Liveness:
    """Watches one engine from a thread of its own, until `stop`."""

    def __init__(self, base_url: str, model: str, *, every_s: float = EVERY_S, patience_s: float = PATIENCE_S) -> None:
        self._base_url, self._model = base_url, model
        self._every_s, self._patience_s = every_s, patience_s
        self._answered_at, self._failures = time.monotonic(), 0
        self._stopped = threading.Event()
        self.hung = False
        threading.Thread(target=self._watch, daemon=True, name=f"liveness of {model}").start()

    def note_answer(self) -> None:
        """Note that a caller had an answer: nothing needs to be asked for a while."""
        self._answered_at, self._failures = time.monotonic(), 0

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s) and not self.hung:
            if time.monotonic() - self._answered_at >= self._every_s:
                self.hung = not self._answers()

    def _answers(self) -> bool:
        """Return whether the engine gives one token in time, or is seen to work for others."""
        before = self._read_progress()
        body = json.dumps({"model": self._model, "prompt": "a", "max_tokens": 1}).encode()
        headers = {"Content-Type": "application/json"}
        try:
            with open_url(f"{self._base_url}/completions", body, headers, timeout_s=self._patience_s) as response:
                response.read()
        except urllib.error.HTTPError as error:
            return self._count_failure() if error.code >= 500 else self._forget_failures()
        except TimeoutError:
            return self._is_busy(before)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return self._is_busy(before)
            # A connection that is refused is a process that has ended, which its owner sees.
            return isinstance(reason, ConnectionRefusedError) or self._count_failure()
        self.note_answer()
        return True

    def _count_failure(self) -> bool:
        """Return whether an engine that failed still counts as answering."""
        self._failures += 1
        return self._failures < FAILURES

    def _forget_failures(self) -> bool:
        self._failures = 0
        return True

    def _is_busy(self, before: float | None) -> bool:
        now = self._read_progress()
        return now is not None and now != before

    def _read_progress(self) -> float | None:
        """Return the sum of the engine's counters, or None if it does not give them in time."""
        address = f"{self._base_url.removesuffix('/v1')}/metrics"
        with (
            contextlib.suppress(OSError, ValueError, HTTPException),
            open_url(address, timeout_s=self._patience_s) as response,
        ):
            lines = response.read(METRICS_BYTES).decode("utf-8", "replace").splitlines()
            return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(COUNTERS))
        return None
