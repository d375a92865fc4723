"""Errors in the shape of OpenAI's API, each with the request's id."""

from typing import Any

import orjson

TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
"""The `type` of an error by its status (OpenAI, "Error codes")."""


class ApiError(Exception):
    """What a caller is answered instead of a completion."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s, self.allow = retry_after_s, allow

    @property
    def type(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def as_dict(self, request_id: str) -> dict[str, Any]:
        """Return the body's `error`; `request_id` is also in it, because not every client shows headers."""
        return {
            "message": f"{self.message} (request {request_id})",
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }

    def body(self, request_id: str) -> bytes:
        return orjson.dumps({"error": self.as_dict(request_id)})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """`Retry-After` in whole seconds, rounded up (RFC 9110, 10.2.3), `Allow` of a 405, `WWW-Authenticate`."""
        headers = []
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(max(1, int(-(-self.retry_after_s // 1)))).encode()))
        if self.allow:
            headers.append((b"allow", self.allow.encode()))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers
