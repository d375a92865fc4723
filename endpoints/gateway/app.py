"""The gateway: one address for baseline, candidate and fallback, by OpenAI's API. An ASGI app."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette

from tuneline.core import paths
from tuneline.endpoints.engine_address import Engines
from tuneline.endpoints.gateway import assistant_model
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.assistant_model import AssistantModel
from tuneline.endpoints.gateway.completions import Completions, Exchange
from tuneline.endpoints.gateway.dialects import DIALECTS
from tuneline.endpoints.gateway.feedback import read_feedback
from tuneline.endpoints.gateway.forwarding import Forwarder
from tuneline.endpoints.gateway.http_messages import (
    CallerLeft,
    Receive,
    Scope,
    Send,
    Sender,
    read_body,
    read_headers,
    replay_body,
    unless_left,
)
from tuneline.endpoints.gateway.judging import Judging
from tuneline.endpoints.gateway.key_index import EVERYBODY, Key, KeyIndex
from tuneline.endpoints.gateway.key_limits import KeyLimits
from tuneline.endpoints.gateway.lifespan import run_with_lifespan
from tuneline.endpoints.gateway.logged_prompts import add_prompt_and_answer, is_sampled, mask
from tuneline.endpoints.gateway.loops import end_process_with
from tuneline.endpoints.gateway.metrics import Metrics, State, read_engines
from tuneline.endpoints.gateway.openapi import describe_api
from tuneline.endpoints.gateway.routing import assign_by
from tuneline.endpoints.gateway.settings_file import SettingsFile
from tuneline.endpoints.gateway.shadow import Shadows
from tuneline.endpoints.gateway.tracing import Tracing
from tuneline.endpoints.request_log.follower import LogFollower
from tuneline.endpoints.request_log.lines import RequestLine
from tuneline.endpoints.request_log.writer import LogWriter, remove_old_days
from tuneline.endpoints.traffic.records import RecordReader, move
from tuneline.endpoints.traffic.rollouts import Mover, Rollouts

log = logging.getLogger(__name__)

SETTINGS_EVERY_S = 2.0
ENGINES_EVERY_S = 2.0
DECIDE_EVERY_S = 5.0
GET_PATHS = frozenset({"/v1/models", "/metrics", "/openapi.json"})
POST_PATHS = frozenset({"/v1/feedback", *(f"/v1/{api}" for api in DIALECTS)})


class Gateway:
    """The parts of a gateway."""

    def __init__(
        self,
        settings: SettingsFile,
        engines: Engines,
        *,
        with_keys: bool = True,
        update_engines: Callable[[], None] = lambda: None,
        refresh: Callable[[], None] = lambda: None,
        move: Mover = move,
        decide_every_s: float = DECIDE_EVERY_S,
        assistant: AssistantModel | None = None,
    ) -> None:
        """`update_engines` starts what was promoted and stops what is not; it is called every few seconds.

        So is `refresh`, which brings the policy folder up to date where that is not by itself. `move` writes a move.
        """
        self.settings, self.engines, self._with_keys = settings, engines, with_keys
        self._update_engines, self._refresh, self.decide_every_s = update_engines, refresh, decide_every_s
        self._assistant = assistant
        self._keys, self.records = KeyIndex(), RecordReader()
        self.limits = KeyLimits(settings.current.limits.storage)
        self.forwarder = Forwarder(engines)
        self.metrics = Metrics()
        self.log, self.tracing = LogWriter(paths.logs()), Tracing()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.completions = Completions(
            lambda: self.settings.current,
            self.forwarder,
            assign_by(self.records.step),
            self.limits.admit,
            self._finished,
            settings.recognize,
            self.tracing.begin,
        )
        self.shadows = Shadows(self.forwarder, self._write)
        self.judging = Judging(lambda: self.settings.current, lambda line: self.log.append(line.as_record()))
        self.rollouts = Rollouts(lambda: self.settings.current, paths.logs(), self.records, move)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return
        sender = Sender(send, f"req_{secrets.token_hex(12)}")
        try:
            await self._route(scope, receive, sender)
        except ApiError as error:
            if not sender.status:
                await sender.error(error)
        except (CallerLeft, ConnectionError):
            pass
        except Exception:
            log.exception("%s failed: a bug", sender.request_id)
            if not sender.status:
                await sender.error(ApiError(500, "the gateway failed; its log has more"))

    async def _route(self, scope: Scope, receive: Receive, sender: Sender) -> None:
        path, method = scope["path"], scope["method"]
        handler = {"/health": self._health, "/ready": self._ready}.get(path)
        if handler and method == "GET":
            await handler(sender)
            return
        headers = read_headers(scope)
        key = self._authorize(headers)
        if path == "/v1/models" and method == "GET":
            await self._models(key, sender)
        elif path == "/openapi.json" and method == "GET":
            await sender.whole(200, orjson.dumps(describe_api(self._list_models(key))))
        elif path == "/metrics" and method == "GET":
            await self._metrics(sender)
        elif path == "/v1/feedback" and method == "POST":
            await self._feedback(key, await read_body(receive, headers, self.settings.current.limits), sender)
        elif self._assistant and path.startswith(assistant_model.PATH):
            content = await read_body(receive, headers, self.settings.current.limits)
            # Not ended when the caller leaves: a call that was confirmed runs, and its result is kept.
            await self._assistant.own_path(key, headers, method, path, content, sender)
        elif self._assistant and path == "/v1/chat/completions" and method == "POST":
            await self._chat(self._assistant, key, headers, receive, sender)
        elif path in POST_PATHS and method == "POST":
            await self.completions.answer(path[4:], key, headers, receive, sender)
        elif handler or path in GET_PATHS or path in POST_PATHS:
            allow = "POST" if path in POST_PATHS else "GET"
            raise ApiError(405, f"{method} {path[:100]}: {allow} is answered here", allow=allow)
        else:
            raise ApiError(404, f"{path[:100]}: not answered here; see docs/gateway.md for what is")

    async def _chat(
        self, assistant: AssistantModel, key: Key, headers: dict[str, str], receive: Receive, sender: Sender
    ) -> None:
        """Answer a chat request: the assistant's if it is for its name."""
        content = await read_body(receive, headers, self.settings.current.limits)
        if body := assistant_model.read_own_body(content):
            await unless_left(assistant.chat(key, headers, body, sender), receive)
        else:
            await self.completions.answer("chat/completions", key, headers, replay_body(content, receive), sender)

    def _authorize(self, headers: dict[str, str]) -> Key:
        """Return the key of a request: `Authorization: Bearer`, or `x-api-key` as Anthropic's clients send it."""
        if not self._with_keys:
            return EVERYBODY
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if key := self._keys.find(secret):
            return key
        raise ApiError(401, "a key is needed: `Authorization: Bearer …`", code="invalid_api_key")

    async def _health(self, sender: Sender) -> None:
        """200 while the process answers."""
        await sender.whole(200, b'{"status":"alive"}')

    async def _ready(self, sender: Sender) -> None:
        """200 when everything promoted answers; without names, because no key was shown."""
        ready = self.engines.ready
        await sender.whole(200 if ready else 503, orjson.dumps({"status": "ready" if ready else "starting"}))

    def _list_models(self, key: Key) -> list[str]:
        """Return the names that a key may ask for."""
        names = [*self.settings.current.models, *self.engines.states()]
        names += [assistant_model.NAME] if self._assistant else []
        return [name for name in dict.fromkeys(names) if not key.models or name in key.models]

    async def _models(self, key: Key, sender: Sender) -> None:
        common = {"object": "model", "created": 0, "owned_by": "tuneline"}
        data = [{"id": name} | common for name in self._list_models(key)]
        await sender.whole(200, orjson.dumps({"object": "list", "data": data}))

    async def _metrics(self, sender: Sender) -> None:
        addresses = {}
        for name in self.engines.states():
            address = self.engines.resolve(name)
            if address.base_url and not address.headers:  # in containers that sleep: a look would wake them
                addresses[name] = address.base_url
        broken = bool(self.settings.mistake)
        state = State(self.completions.admission, self.forwarder, self.rollouts.last, broken)
        content = self.metrics.render(state, await read_engines(addresses))
        await sender.whole(200, content, CONTENT_TYPE_LATEST.encode())

    async def _feedback(self, key: Key, content: bytes, sender: Sender) -> None:
        line = read_feedback(content, key.owner, mask)
        self.log.append(line.as_record())
        await sender.whole(200, orjson.dumps({"id": line.id, "object": "feedback"}))

    def _finished(self, exchange: Exchange) -> None:
        """Write a request's line, count what it took, and ask its shadow."""
        line, plan, settings = exchange.line, exchange.plan, self.settings.current
        if is_sampled(settings.log.prompts):
            add_prompt_and_answer(line, exchange)
        self._write(line)
        self.tracing.record(line, exchange.body, exchange.span)
        if line.key and (key := self._keys.named(line.key)):
            self._run(self.limits.spend(key, line.prompt_tokens + line.completion_tokens, line.usd))
        if self.judging.takes(exchange):
            self._run(self.judging.judge(exchange))
        route = settings.models.get(line.model)
        if plan and plan.shadow and route and line.outcome == "ok" and plan.assignment.arm == "baseline":
            policy = route.policy_of(plan.task)
            if self.shadows.takes(plan, policy):
                self._run(self._ask_shadow(exchange, settings.limits.request_s))

    async def _ask_shadow(self, exchange: Exchange, limit_s: float) -> None:
        asked = await self.shadows.ask(exchange, limit_s)
        if asked and self.judging.takes_pair(exchange):
            await self.judging.judge_pair(exchange, *asked)

    def _write(self, line: RequestLine) -> None:
        self.log.append(line.as_record())
        self.metrics.observe(line, {*self.settings.current.models, *self.engines.states()})
        self.forwarder.note_spent(line.target, line.usd)

    def _run(self, work: Awaitable[Any]) -> None:
        """Do something beside the requests."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def follow_settings(self) -> None:
        """Read the settings again, and what the policy is, for as long as the gateway runs."""
        while True:
            await asyncio.sleep(SETTINGS_EVERY_S)
            await asyncio.to_thread(self.settings.refresh)  # it may train the classifier of tasks
            try:
                await asyncio.to_thread(self._refresh)
            except Exception as error:  # of the network, or a bug: what was read last counts until the next look
                log.error("the policy cannot be looked at: %s", error, exc_info=not hasattr(error, "exit_code"))

    async def follow_traffic(self) -> None:
        """Move traffic as the evidence says, and remove old days of the log, for as long as the gateway runs."""
        while True:
            await asyncio.sleep(self.decide_every_s)
            try:
                await asyncio.to_thread(self.rollouts.decide)
                await asyncio.to_thread(remove_old_days, paths.logs(), self.settings.current.log.retain_days)
            except Exception:
                log.exception("traffic stays where it is")

    async def follow_engines(self) -> None:
        """Start and stop engines as promotions change, for as long as the gateway runs."""
        while True:
            try:
                await asyncio.to_thread(self._update_engines)
            except Exception as error:  # of one promotion, or a bug: the loop goes on either way
                log.error("what is promoted cannot be served: %s", error, exc_info=not hasattr(error, "exit_code"))
            await asyncio.sleep(ENGINES_EVERY_S)

    async def _restore_spending(self) -> None:
        """Read in the log what keys and targets have spent before this process began."""
        now = datetime.now(UTC)
        follower = LogFollower(paths.logs(), since=now.date().replace(day=1))
        records = await asyncio.to_thread(lambda: [record for record in follower.poll() if record.get("usd")])
        await self.limits.restore(records, now)
        for record in records:
            if str(record.get("at", "")).startswith(now.date().isoformat()):
                self.forwarder.note_spent(record.get("target", ""), float(record["usd"]))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow settings and engines until the block ends; if one of the loops ends, the process does."""
        await self._restore_spending()
        loops = [
            asyncio.create_task(loop()) for loop in (self.follow_settings, self.follow_engines, self.follow_traffic)
        ]
        for task in loops:
            task.add_done_callback(end_process_with)
        try:
            async with self._assistant.running(self.tracing) if self._assistant else contextlib.nullcontext():
                yield
        finally:
            for task in (*loops, *self._tasks):
                task.remove_done_callback(end_process_with)
                task.cancel()
            await asyncio.gather(*loops, *self._tasks, return_exceptions=True)
            await self.forwarder.close()
            self.log.close()
            await asyncio.to_thread(self.tracing.close)


def build_app(gateway: Gateway) -> Starlette:
    """Return the ASGI app of a gateway, which runs for the app's lifespan."""
    return run_with_lifespan(gateway)
