"""Credentials are taken out of text, and nothing else is."""

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneline.core.errors import BadRequest
from tuneline.core.redaction import redact, redact_url, url_secrets

UNRESERVED = string.ascii_letters + string.digits + "-._~%!$*+,"
SECRETS = st.text(UNRESERVED, min_size=6, max_size=20).map(lambda text: f"{text}Zq9Zq9")
PLACES = st.sampled_from(["{}", "no answer from {}; is it up?", "Client error for url '{}'", '{{"url": "{}"}}', "({})"])


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:pass@host:80/v1?token=abc&x=1#f", "http://***@host:80/v1?token=***&x=***#f"),
        ("http://user@host", "http://***@host"),
        ("http://u:p@ss@host/v1", "http://***@host/v1"),
        ("http://u:p/ss@host/v1", "http://***@host/v1"),
        ("http://u:p?ss@host/v1", "http://***@host/v1"),
        ("http://u:p#ss@host/v1", "http://***@host/v1"),
        ("http://u:p@[::1]:8080/v1", "http://***@[::1]:8080/v1"),
        ("wss://u:p@host/?abc", "wss://***@host/?***"),
        ("https://host/back#access_token=abc", "https://host/back#access_token=***"),
        ("postgresql+asyncpg://u:p@host/db", "postgresql+asyncpg://***@host/db"),
    ],
)
def test_credentials_of_an_url_are_masked(address: str, shown: str) -> None:
    assert redact_url(address) == shown
    assert redact(f"see {address} there") == f"see {shown} there"


@pytest.mark.parametrize(
    "text",
    [
        "groq",
        "http://127.0.0.1:8080/v1",
        "http://[::1]:8080/v1",
        "serve it at http://HOST:PORT/v1, or http://host/v1?",
        "https://host/@scope/name@1.2#usage",
        "http://host:8080/@name",
        "write to ana@example.com: is it 3:4?a=b",
        "whatsapp://",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact(text) == text


@given(PLACES, SECRETS, SECRETS, SECRETS, st.sampled_from(["host", "127.0.0.1:8000", "[::1]:80"]))
def test_no_credential_survives_wherever_its_url_is(
    place: str, user: str, password: str, token: str, host: str
) -> None:
    url = f"https://{user}:{password}@{host}/v1?token={token}&b={token}"
    text = redact(place.format(url))
    assert not any(secret in text for secret in (user, password, token)) and host in text
    assert redact(text) == text


@given(st.text(max_size=60))
def test_text_without_urls_stays(text: str) -> None:
    assert "://" in text or redact(text) == text
    assert redact(redact(f"http://{text}")) == redact(f"http://{text}")


def test_the_environments_keys_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GROQ_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "TUNELINE_WEBHOOK"):
        monkeypatch.setenv(name, f"value-of-{name.lower()}")
        assert redact(f"refused: value-of-{name.lower()}!") == "refused: ***!"
    monkeypatch.setenv("SHORT_TOKEN", "yes")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "something")
    assert redact("yes, something") == "yes, something"


def test_an_error_has_no_credentials_whoever_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk_0123456789")
    error = BadRequest("http://user:hush@host/v1: the key gsk_0123456789 was refused")
    assert str(error) == "http://***@host/v1: the key *** was refused"
    assert "hush" not in repr(error) and error.args == (str(error),)


def test_what_a_server_may_quote_of_an_url() -> None:
    assert url_secrets("http://user:p%40ss@host/v1?token=abcd&x=1") == ("p%40ss", "abcd", "p@ss")
    assert url_secrets("groq") == url_secrets("http://[broken") == ()


def test_a_long_text_takes_no_longer_than_reading_it() -> None:
    hostile = [
        "a" * 200_000 + "://",
        "http://" + "1:" * 100_000,
        "http://" + "@" * 200_000,
        "http://h?" + "=&" * 100_000,
    ]
    began = time.monotonic()
    for text in hostile:
        redact(text)
    assert time.monotonic() - began < 10  # 0.3 s on two idle cores; minutes if it were quadratic
