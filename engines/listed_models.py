"""Which model a server has, where nobody said its name."""

import json

from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.redaction import redact_url
from tuneline.core.web_requests import append_path, open_url
from tuneline.engines.own_key import own_key, own_key_remedy

MODELS_TIMEOUT_S = 30


def find_only_model(base_url: str, key: str | None = None) -> str:
    """Return the name of the one model that a server lists; `base_url` is of its OpenAI API.

    `key` is that of another host; one of our own gets `TUNELINE_API_KEY`.

    Raises:
        NotFound: it lists none, or does not answer. BadRequest: it has several.
    """
    url, key = append_path(base_url, "models"), key or own_key(base_url)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with open_url(url, headers=headers, timeout_s=MODELS_TIMEOUT_S) as response:
            names = [str(model["id"]) for model in json.loads(response.read())["data"]]
        first, others = names[0], names[1:]
    except (OSError, ValueError, LookupError, TypeError) as error:
        remedy = own_key_remedy(base_url) or "is the server up, and its key in TUNELINE_API_KEY?"
        raise NotFound(f"{redact_url(url)}: {error}; {remedy}") from None
    if others:
        raise BadRequest(f"{redact_url(url)} lists {', '.join(names)}; --model NAME says which is meant")
    return first
