"""Feedback on an answer, as `POST /v1/feedback` takes it."""

from collections.abc import Callable
from typing import Any

from tuneline.core.user_files import parse_json
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.request_log.lines import FeedbackLine

RATINGS = {"good": 1.0, "bad": 0.0}
MAX_CORRECTION = 100_000


def read_feedback(content: bytes, key: str, mask: Callable[[str], str]) -> FeedbackLine:
    """Return what a body says: `{"id": …, "rating": "good" | "bad", "value": 0…1, "correction": "…"}`.

    `mask` takes secrets and personal data out of a correction.

    Raises:
        ApiError: 400 that names the field.
    """
    try:
        body = parse_json(content)
        request_id = body["id"]
    except (ValueError, TypeError, KeyError):
        raise ApiError(400, "the body is JSON with the `id` of a request", param="id") from None
    if not isinstance(request_id, str) or not request_id.startswith("req_") or len(request_id) > 64:
        raise ApiError(400, "id: the `x-request-id` of an answer", param="id")
    value, correction = _value(body), body.get("correction")
    if correction is not None and not (isinstance(correction, str) and len(correction) <= MAX_CORRECTION):
        raise ApiError(400, f"correction: a text of at most {MAX_CORRECTION} characters", param="correction")
    if value is None and correction is None:
        raise ApiError(400, "rating, value or correction is missing", param="rating")
    return FeedbackLine(request_id, key, value, correction and mask(correction))


def _value(body: dict[str, Any]) -> float | None:
    if "rating" in body:
        if not isinstance(body["rating"], str) or body["rating"] not in RATINGS:
            raise ApiError(400, "rating: good or bad", param="rating")
        return RATINGS[body["rating"]]
    value = body.get("value")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ApiError(400, "value: a number from 0 to 1", param="value")
    return float(value)
