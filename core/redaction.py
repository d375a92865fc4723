"""Credentials taken out of text that is written or shown: a URL's user, password and query, the environment's keys.

`TunelineError`, `Events` and what a guarded process prints (`core.terminal`) pass through `redact`; what a recipe or a
result records of an address passes through `redact_url`. A secret is cut out before a text is shortened, never after.
"""

import os
import re
from typing import Any
from urllib.parse import unquote_plus, urlsplit

MASK = "***"
MIN_LENGTH = 8
"""Shorter values of secret variables are not looked for: they would be found in ordinary words."""
MIN_QUOTED_LENGTH = 4
"""Shorter passwords and values of a query are not looked for outside of their URL."""
SECRET_VARIABLE = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|WEBHOOK)$")
SENTENCE_MARKS = ":;,.!?)]}"
"""After a URL in a sentence these are not part of it."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s\"'<>`]+")


def redact(text: str, *secrets: str) -> str:
    """Return `text` without the credentials of the URLs in it, the environment's keys and tokens, and `secrets`."""
    if "://" in text:
        text = _URL.sub(_redact_match, text)
    for secret in sorted({*_environment_secrets(), *secrets} - {""}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def redact_texts(value: Any) -> Any:
    """Return a JSON value with `redact` applied to each text in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(name): redact_texts(item) for name, item in value.items()}
    return [redact_texts(item) for item in value] if isinstance(value, list) else value


def redact_url(address: str) -> str:
    """Return an address with `***` for its user and password and for each value of its query; a name as it is."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    rest, hash_sign, fragment = rest.partition("#")
    location, question_mark, query = rest.partition("?")
    user_end = _user_end(location)
    if user_end < 0 and "@" in query + fragment and _has_password(location):  # one with `?` or `#` in it as they are
        return f"{scheme}://{MASK}@{(query + fragment).rpartition('@')[2]}"
    location = location if user_end < 0 else f"{MASK}@{location[user_end + 1 :]}"
    fragment = _mask_values(fragment) if "=" in fragment else fragment
    return f"{scheme}://{location}{question_mark}{_mask_values(query)}{hash_sign}{fragment}"


def url_secrets(address: str) -> tuple[str, ...]:
    """Return the password and the query's values of a URL, as written and decoded: a server may quote either."""
    try:
        parts = urlsplit(address)
    except ValueError:  # an address that no request can be sent to
        return ()
    quoted = [parts.password or "", *(pair.partition("=")[2] for pair in parts.query.split("&"))]
    values = [*quoted, *map(unquote_plus, quoted)]
    return tuple(dict.fromkeys(value for value in values if len(value) >= MIN_QUOTED_LENGTH))


def _redact_match(match: re.Match[str]) -> str:
    url = match[0].rstrip(SENTENCE_MARKS)
    return redact_url(url) + match[0][len(url) :]


def _user_end(location: str) -> int:
    """Return where the `@` after user and password is in `host/path`, or -1 if there is none."""
    host = location.partition("/")[0]
    return location.rfind("@") if _has_password(host) else host.rfind("@")


def _has_password(location: str) -> bool:
    """Return whether what follows a host's colon is no port."""
    host = location.partition("/")[0]
    return bool(re.search(r"^[^\[]*:(?!\d*$)", host))


def _mask_values(query: str) -> str:
    if "=" in query:
        return re.sub(r"=[^&]*", f"={MASK}", query)
    return MASK if re.search(r"\w", query) else query


def _environment_secrets() -> list[str]:
    return [v for name, v in os.environ.items() if len(v) >= MIN_LENGTH and SECRET_VARIABLE.search(name)]
