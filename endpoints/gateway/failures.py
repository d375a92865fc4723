"""How an upstream can fail, and what follows: another try there, another upstream, or an answer to the caller."""

from typing import Any

import orjson

from tuneline.core.redaction import redact
from tuneline.core.web_requests import read_retry_after
from tuneline.endpoints.gateway.api_errors import ApiError

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 529})
"""Statuses that say that there is no answer, and that there may be one soon."""
NOT_THE_CALLERS = frozenset({401, 402, 403, 404, 405}) | TRANSIENT | frozenset({504})
"""Other 4xx are about the request itself, so every upstream would say the same."""
TOO_LONG = "context_length_exceeded"
"""Code of a 400 (OpenAI): another model may have a longer context."""
BOOTING = "engine_starting"
"""Code of a 503 of our own engines' containers (`endpoints/engine_api.py`): this version does not answer there yet."""
STATUS_OF = {"silent": 504, "busy": 503, "open": 503, "booting": 503, "budget": 503}
"""The gateway's own status by kind of failure; others are 502."""


class Failure(Exception):
    """An upstream gave no answer and no first token, so that another may be asked."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int | None = None,
        body: bytes = b"",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.status, self.body = kind, message, status, body
        self.retry_after_s = retry_after_s

    @classmethod
    def of_status(cls, status: int, body: bytes, retry_after: str | None) -> "Failure":
        message, code = _read_error(body)
        kind = {TOO_LONG: "too long", BOOTING: "booting"}.get(code or "", "")
        kind = kind or ("status" if status in NOT_THE_CALLERS or not 400 <= status < 500 else "refusal")
        return cls(
            kind, message or f"status {status}", status=status, body=body, retry_after_s=read_retry_after(retry_after)
        )

    @classmethod
    def of_error_event(cls, error: Any) -> "Failure":
        """Return the failure of an error that a stream begins with."""
        return cls.of_status(500, orjson.dumps({"error": error}), None)

    @property
    def same_again(self) -> bool:
        """Whether the same upstream may be asked again: it has surely not answered, and not still about to."""
        return self.kind in ("refused", "reset") or (self.kind == "status" and self.status in TRANSIENT)

    @property
    def is_answer(self) -> bool:
        """Whether it is an answer to this very request, such as a refusal of content, which nobody else is asked."""
        return self.kind == "refusal"

    @property
    def is_fault(self) -> bool:
        """Whether it counts against the upstream.

        A 500 in the API's shape does not: the engine is there, and what it fails on may be in the request, which would
        close the way for everybody else's.
        """
        if self.kind == "status":
            return self.status != 429 and not (self.status == 500 and _read_error(self.body)[0])
        return self.kind in ("refused", "reset", "silent", "garbled")

    def to_api_error(self, label: str) -> ApiError:
        """Return what the caller is answered if nobody else can be asked."""
        message, code = _read_error(self.body)
        if self.kind == "booting":
            return ApiError(503, f"{label}: is starting", retry_after_s=self.retry_after_s or 5)
        if self.kind in ("refusal", "too long"):
            return ApiError(self.status or 400, message or self.message, code=code)
        if self.status in (429, 503, 529):
            status = 429 if self.status == 429 else 503
            return ApiError(status, f"{label}: {message or self.message}", retry_after_s=self.retry_after_s or 1)
        if self.status in (401, 402, 403):
            return ApiError(502, f"{label}: the upstream refused the gateway's own key ({self.status})")
        retry_after_s = self.retry_after_s if STATUS_OF.get(self.kind) == 503 else None
        return ApiError(STATUS_OF.get(self.kind, 502), f"{label}: {self.message}", retry_after_s=retry_after_s)


class Interrupted(Exception):
    """A stream broke off after its first token: nobody else can be asked."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def _read_error(body: bytes) -> tuple[str, str | None]:
    """Return (message, code) of an error's body in OpenAI's shape, or empty ones."""
    try:
        error = orjson.loads(body)["error"]
        if isinstance(error, str):
            return redact(error[:500]), None
        code = error.get("code")
        return redact(str(error.get("message") or "")[:500]), code if isinstance(code, str) else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", None
