"""The assistant as one more model of the gateway: chat requests for its name, and confirmations at paths of its own.

Its model is asked through the gateway too, with the caller's own key: what that key may, spends and has in the log is
as if it had asked itself. Whoever holds another key finds none of its conversations.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

from tuneline.configs.catalogue import Catalogue
from tuneline.core.errors import BadRequest, Locked, NotFound, TunelineError
from tuneline.core.user_files import parse_json
from tuneline.endpoints.assistant.chat_api import read_chat_request, start, to_chunks, to_completion
from tuneline.endpoints.assistant.documents import Documents
from tuneline.endpoints.assistant.events import Event, Limits
from tuneline.endpoints.assistant.handler_sources import open_handlers
from tuneline.endpoints.assistant.loop import Assistant
from tuneline.endpoints.assistant.store import Store
from tuneline.endpoints.assistant.trace import Trace
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.http_messages import EVENTS, Sender
from tuneline.endpoints.gateway.key_index import Key
from tuneline.endpoints.gateway.named_prompts import STYLE_HEADER
from tuneline.endpoints.gateway.tracing import Tracing
from tuneline.endpoints.tool_selection import ToolSelector
from tuneline.engines.providers import NO_KEY, Chat, find_provider

NAME = "assistant"
PATH = "/v1/assistant/"
CONVERSATION = "x-tuneline-conversation"
_STATUS: tuple[tuple[type[TunelineError], int], ...] = ((NotFound, 404), (BadRequest, 400), (Locked, 409))


def read_own_body(content: bytes) -> dict[str, Any] | None:
    """Return a chat request's body if it is for the assistant, else None: most are not, and are not parsed for it."""
    if NAME.encode() not in content:
        return None
    try:
        body = parse_json(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) and body.get("model") == NAME else None


class AssistantModel:
    """Answers for the name `assistant`; use it in `async with running()`."""

    def __init__(
        self,
        sources: list[str],
        url: str,
        model: str,
        folder: Path,
        *,
        catalogue: Catalogue | None = None,
        selector: ToolSelector | None = None,
        unconfirmed: tuple[str, ...] = (),
        knowledge: Path | None = None,
        prompt: str | None = None,
        limits: Limits | None = None,
        picks_only: bool = False,
        traces: Path | None = None,
    ) -> None:
        """`model` is what it asks at `url`, the gateway's own address; `sources` are those of its handlers.

        Conversations are kept in `folder`, and traces too, unless `traces` is another.
        """
        self._sources, self._provider, self._model, self._folder = sources, find_provider(url), model, folder
        self._catalogue, self._knowledge, self._prompt = catalogue, knowledge, prompt
        self._selector, self._unconfirmed, self._limits = selector, unconfirmed, limits
        self._picks_only, self._traces = picks_only, traces or folder
        self._assistant: Assistant | None = None
        self._chat: Chat | None = None
        self._store: Store | None = None
        self._tracing: Tracing | None = None

    @contextlib.asynccontextmanager
    async def running(self, tracing: Tracing) -> AsyncIterator[None]:
        """Keep handlers, their servers and the store open; steps are spans of `tracing`."""
        self._tracing = tracing
        async with AsyncExitStack() as stack:
            handlers = await stack.enter_async_context(open_handlers(self._sources, self._catalogue, self._unconfirmed))
            self._chat = await stack.enter_async_context(self._provider.connect(self._model, key=NO_KEY))
            self._store = Store(self._folder / "assistant.db")
            stack.callback(self._store.close)
            documents = Documents(self._knowledge) if self._knowledge else None
            self._assistant = Assistant(
                self._chat,
                handlers,
                self._store,
                Trace(self._traces, tracing.provider),
                selector=self._selector,
                documents=documents,
                limits=self._limits,
                prompt=self._prompt,
                picks_only=self._picks_only,
            )
            yield

    async def chat(self, key: Key, headers: dict[str, str], body: dict[str, Any], sender: Sender) -> None:
        """Answer a chat request.

        Raises:
            ApiError: before anything was sent.
        """
        _refuse_other_models(key)
        with _as_api_errors():
            request = read_chat_request(body)
            conversation = self._opened[1].open_conversation(key.owner, headers.get(CONVERSATION))
            events = start(
                self._asking(headers, request.system), key.owner, request, conversation, headers.get(STYLE_HEADER)
            )
        with self._span(conversation, headers):
            await _send(events, request.stream, conversation, sender)

    async def own_path(
        self, key: Key, headers: dict[str, str], method: str, path: str, body: bytes, sender: Sender
    ) -> None:
        """Answer at `/v1/assistant/…`: confirmations, and the key's own conversations.

        Raises:
            ApiError: no such call, conversation or path.
        """
        _refuse_other_models(key)
        kind, _, identity = path.removeprefix(PATH).partition("/")
        store = self._opened[1]
        with _as_api_errors():
            if (kind, method) == ("calls", "POST") and identity:
                await self._decide(key, headers, identity, body, sender)
                return
            answer: Any
            if (kind, method, identity) == ("conversations", "GET", ""):
                answer = {"conversations": store.conversations(key.owner)}
            elif (kind, method) == ("conversations", "GET"):
                answer = {"messages": store.messages(key.owner, identity)}
            elif (kind, method) == ("conversations", "DELETE") and identity:
                store.delete_conversation(key.owner, identity)
                answer = {"deleted": identity}
            else:
                raise ApiError(404, f"{method} {path[:100]}: not answered here; see docs/assistant.md for what is")
        await sender.whole(200, orjson.dumps(answer))

    async def _decide(self, key: Key, headers: dict[str, str], identity: str, body: bytes, sender: Sender) -> None:
        try:
            value = parse_json(body)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("confirm"), bool):
            raise BadRequest('confirm: send {"confirm": true} or {"confirm": false}')
        conversation = self._opened[1].find_waiting(key.owner, identity).conversation
        events = self._asking(headers, "").confirm(key.owner, identity, value["confirm"])
        with self._span(conversation, headers):
            await _send(events, bool(value.get("stream")), conversation, sender)

    def _span(self, conversation: str, headers: dict[str, str]) -> contextlib.AbstractContextManager[Any]:
        assert self._tracing
        return self._tracing.agent_span(NAME, conversation, headers)

    @property
    def _opened(self) -> tuple[Assistant, Store, Chat]:
        if self._assistant is None or self._store is None or self._chat is None:
            raise ApiError(503, "the assistant is starting", retry_after_s=1)
        return self._assistant, self._store, self._chat

    def _asking(self, headers: dict[str, str], system: str) -> Assistant:
        """Return the assistant as it works for a caller: its model is asked with their key."""
        assistant, _, chat = self._opened
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return assistant.working_for(chat.with_key(secret or NO_KEY), system)


async def _send(events: AsyncIterator[Event], is_stream: bool, conversation: str, sender: Sender) -> None:
    extra = [(CONVERSATION.encode(), conversation.encode())]
    if not is_stream:
        with _as_api_errors():
            completion = await to_completion(events, NAME, sender.request_id)
        await sender.whole(200, orjson.dumps(completion), extra=extra)
        return
    await sender.begin(200, EVENTS, [(b"cache-control", b"no-cache"), *extra])
    try:
        async for chunk in to_chunks(events, NAME, sender.request_id):
            await sender.piece(b"data: " + orjson.dumps(chunk) + b"\n\n")
        await sender.end(b"data: [DONE]\n\n")
    except TunelineError as error:
        await sender.end(b"data: " + _to_api_error(error).body(sender.request_id) + b"\n\n")


def _refuse_other_models(key: Key) -> None:
    if key.models and NAME not in key.models:
        raise ApiError(404, f"{NAME}: not among this key's models", code="model_not_found", param="model")


@contextlib.contextmanager
def _as_api_errors() -> Iterator[None]:
    try:
        yield
    except TunelineError as error:
        raise _to_api_error(error) from None


def _to_api_error(error: TunelineError) -> ApiError:
    return ApiError(next((status for kind, status in _STATUS if isinstance(error, kind)), 502), str(error))
