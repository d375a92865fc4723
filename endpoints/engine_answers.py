"""What servers before an engine have in common: its answer passed on, and errors in OpenAI's shape."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable

import aiohttp

from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.http_messages import CallerLeft, Header, Send, Sender

log = logging.getLogger(__name__)


async def answer_or_explain(send: Send, answer: Callable[[Sender], Awaitable[None]], engine: str) -> None:
    """Answer one request by `answer`; an error becomes the answer, unless one has begun. `engine` is its name there."""
    sender = Sender(send, f"req_{secrets.token_hex(12)}")
    try:
        await answer(sender)
    except ApiError as error:
        await sender.error(error)
    except (aiohttp.ClientError, OSError) as error:
        if not sender.status:
            await sender.error(ApiError(502, f"{engine} does not answer ({type(error).__name__})"))
    except CallerLeft:
        pass
    except Exception:
        log.exception("%s failed: a bug", sender.request_id)
        if not sender.status:
            await sender.error(ApiError(500, f"the server before {engine} failed; its log has more"))


async def pass_on(response: aiohttp.ClientResponse, sender: Sender, extra: Iterable[Header] = ()) -> None:
    """Send an engine's answer to the caller as it comes, with `extra` headers."""
    await sender.begin(response.status, response.headers.get("content-type", "").encode(), extra)
    async for piece in response.content.iter_any():
        await sender.piece(piece)
    await sender.end()
