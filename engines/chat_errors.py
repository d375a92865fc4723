"""The errors of a provider's server, as errors of ours that name a remedy: the same for every client and provider."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tuneline.core.errors import BadRequest, NotFound, StageFailed, TunelineError
from tuneline.core.redaction import redact, redact_url, url_secrets
from tuneline.engines.own_key import own_key_remedy


@dataclass(frozen=True)
class ErrorTranslator:
    """What errors say of a server: `provider` is its name, `base_url` its address, `key_variable` where its key is."""

    provider: str
    base_url: str = field(repr=False)
    key_variable: str | None
    model: str
    key: str = field(repr=False)

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn the errors of openai, of its transport and of LiteLLM, whose are openai's, into TunelineErrors.

        Raises:
            BadRequest: the key or the request was refused. NotFound: no such model.
            StageFailed: no answer, also after retries, or one that broke off.
        """
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise StageFailed(f"{self.provider}: no answer from {self._address} in time; try again") from None
        except openai.APIStatusError as error:
            raise self._of_status(error) from None
        except openai.APIConnectionError:
            start = "; `tuneline serve RUN` starts it" if self.provider == "local" else "; is it running?"
            raise StageFailed(f"{self.provider}: nothing answers at {self._address}{start}") from None
        except openai.APIError as error:  # an error sent in the middle of a stream
            raise StageFailed(f"{self.provider}: {self.model}: {self._redact(error.message)}") from None
        except Exception as error:
            if problem := self._of_transport(error):
                raise problem from None
            raise

    def _of_status(self, error: Any) -> TunelineError:
        status, message = error.status_code, self._redact(error.message)
        if status in (401, 403):
            variable = self.key_variable
            remedy = f"`export {variable}=…` with one that may" if variable else self._keyless_remedy()
            return BadRequest(f"{self.provider}: the key was refused ({status}); {remedy}")
        if status == 404:
            return NotFound(f"{self.provider}: {self.model}: {message}; `curl {self._address}/models` lists its models")
        if status == 429:
            wait = error.response.headers.get("retry-after", "")
            later = f"in {wait} s" if wait.isdecimal() else "later"
            return StageFailed(
                f"{self.provider}: too many requests (429), even after waiting; lower the concurrency, or try {later}"
            )
        is_theirs = status >= 500 or status in (408, 409)  # a time-out and a conflict of the server's own
        return (StageFailed if is_theirs else BadRequest)(f"{self.provider}: {self.model}: {message}")

    def _of_transport(self, error: Exception) -> TunelineError | None:
        """Return the error of a broken connection, or None: openai 3 is on httpx2, openai 2 and LiteLLM on httpx."""
        for name in ("httpx2", "httpx"):
            transport = sys.modules.get(name)
            if transport and isinstance(error, transport.InvalidURL):
                return BadRequest(f"{self.provider}: not an address; write one as in https://host:8000/v1")
            if transport and isinstance(error, transport.TransportError):
                return StageFailed(f"{self.provider}: the answer broke off ({type(error).__name__}); ask again")
        return None

    def _keyless_remedy(self) -> str:
        return own_key_remedy(self.base_url) or "it requires a key: name its variable"

    @property
    def _address(self) -> str:
        return redact_url(self.base_url)

    def _redact(self, message: str) -> str:
        return redact(message, self.key, *url_secrets(self.base_url))
