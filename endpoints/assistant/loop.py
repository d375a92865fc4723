"""The loop: a model picks tools, handlers run, results go back, the answer comes out.

What runs is decided by three things alone: the tools that were offered for the user's own words, the check of the
arguments, and for a dangerous call the confirmation of a person who holds the conversation's key. No text that a tool,
a document or the model wrote has a part in them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from copy import copy
from typing import Any
from weakref import WeakValueDictionary

from tuneline.configs.catalogue import wire_name
from tuneline.endpoints.assistant import history
from tuneline.endpoints.assistant.caller import Caller, calling
from tuneline.endpoints.assistant.documents import Documents, Passage
from tuneline.endpoints.assistant.events import Called, Done, Event, Limits, Returned, Text, Waiting
from tuneline.endpoints.assistant.handler_sources import Handlers
from tuneline.endpoints.assistant.handlers import Outcome, run_handler
from tuneline.endpoints.assistant.question import Question
from tuneline.endpoints.assistant.requested_calls import RequestedCall, find_repeated, read_calls
from tuneline.endpoints.assistant.store import Message, Progress, Store
from tuneline.endpoints.assistant.summary import summarise
from tuneline.endpoints.assistant.system_message import compose_system
from tuneline.endpoints.assistant.trace import Trace
from tuneline.endpoints.assistant.untrusted_text import cut, neutralise
from tuneline.endpoints.prompts import find_style, prompt_headers
from tuneline.endpoints.tool_selection import ToolSelector
from tuneline.engines.chat_messages import Answer
from tuneline.engines.providers import Chat
from tuneline.engines.tool_calls import parse_tool_calls

DECLINED = "The user did not confirm this call; it did not run."
CALL_STARTS = ("{", "<", "[")
"""How a text begins that may be calls, which nobody is shown."""


class Assistant:
    """Answers questions with a model's help of handlers; conversations are in the store, one owner's each."""

    def __init__(
        self,
        chat: Chat,
        handlers: Handlers,
        store: Store,
        trace: Trace,
        *,
        selector: ToolSelector | None = None,
        documents: Documents | None = None,
        system: str = "",
        prompt: str | None = None,
        limits: Limits | None = None,
        picks_only: bool = False,
    ) -> None:
        """`picks_only`: the model learned to pick tools and never saw a result: results are the answer, unread by it.

        `system` is a system message as it is, `prompt` the name of one of `configs/prompts`."""
        self._chat, self._handlers, self._store, self._trace = chat, handlers, store, trace
        self._selector, self._documents, self._limits = selector, documents, limits or Limits()
        self._system, self._prompt, self._picks_only = system, prompt, picks_only
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def working_for(self, chat: Chat, system: str = "") -> "Assistant":
        """Return this assistant with another client of its model, and a system message of the caller's."""
        other = copy(self)
        other._chat, other._system = chat, system
        return other

    async def ask(
        self,
        owner: str,
        question: str,
        conversation: str | None = None,
        *,
        style: str | None = None,
        earlier: Sequence[Message] = (),
    ) -> AsyncIterator[Event]:
        """Yield what happens until the answer is complete or calls wait; calls that waited before are declined.

        From this question on the conversation is in `style`, if one is given. `earlier` are turns that an
        empty conversation begins with.

        Raises:
            NotFound: the owner has no such conversation, or there is no such style.
            StageFailed: the model does not answer.
        """
        if style:
            find_style(style)
        conversation = self._store.open_conversation(owner, conversation)
        if style:
            self._store.set_style(owner, conversation, style)
        async with self._lock(conversation):
            for pending in self._store.waiting(owner, conversation):
                self._store.decide(owner, pending.id, confirmed=False)
            messages = self._store.messages(owner, conversation)
            self._add(owner, conversation, messages, history.complete(messages) if messages else earlier)
            dropped = await self._shorten(owner, conversation, messages)
            self._add(owner, conversation, messages, [{"role": "user", "content": neutralise(question)}])
            self._store.set_progress(conversation, Progress(0, 0))
            with self._trace.step(conversation, "question", owner=owner, text=question, dropped_messages=dropped):
                pass
            async for event in self._go_on(owner, conversation, messages):
                yield event

    async def _shorten(self, owner: str, conversation: str, messages: list[Message]) -> int:
        """Drop the oldest turns that a prompt has no room for, summarised first if that is set; return how many
        messages these were."""
        dropped = history.count_dropped(messages, self._limits.history_tokens)
        if dropped and self._limits.memory == "summarise" and not self._picks_only:
            with self._trace.step(conversation, "summary", dropped_messages=dropped) as step:
                before = self._store.summary(owner, conversation)
                prompt, answer = await summarise(self._chat, before, messages[:dropped], self._limits)
                step |= {"prompts": {prompt.label: prompt.hash}, "text": answer.text, "finish": answer.finish_reason}
                step |= {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
            self._store.set_summary(owner, conversation, answer.text.strip() or before)
        if dropped:
            self._store.drop_oldest(owner, conversation, dropped)
            del messages[:dropped]
        return dropped

    async def confirm(self, owner: str, pending_id: str, confirmed: bool = True) -> AsyncIterator[Event]:
        """Run a call that waits, or decline it, and go on once none waits; each can be decided once.

        Raises:
            NotFound: no such call waits for this owner. BadRequest: it was decided already, or too late.
        """
        pending = self._store.decide(owner, pending_id, confirmed)
        conversation = pending.conversation
        with self._trace.step(conversation, "confirmation", tool=pending.name, confirmed=confirmed, owner=owner):
            pass
        async with self._lock(conversation):
            call = RequestedCall(pending.call, pending.name, pending.arguments)
            outcome = Outcome(DECLINED, False)
            if confirmed:
                yield Called(call.name, call.arguments)
                outcome = await self._run(owner, conversation, call, is_confirmed=True)
                yield Returned(call.name, outcome.text, outcome.ok)
            messages = self._store.messages(owner, conversation)
            self._add(owner, conversation, messages, [_result(call, outcome)])
            if self._store.waiting(owner, conversation):
                yield self._done(owner, conversation, "", "confirmation")
                return
            async for event in self._go_on(owner, conversation, messages):
                yield event

    async def _go_on(self, owner: str, conversation: str, messages: list[Message]) -> AsyncIterator[Event]:
        """Yield what happens from here on, round by round."""
        question = self._open_question(owner, conversation, messages)
        while True:
            if self._picks_only and (results := history.results_since_question(messages)):
                for event in self._conclude(question, "\n".join(reversed(results)), "stop"):
                    yield event
                return
            limit, answer = self._reached(question.progress), None
            async for piece in self._ask_model(question, [] if limit else question.offered):
                if isinstance(piece, Answer):
                    answer = piece
                else:
                    yield piece
            assert answer
            calls = self._read_calls(question, answer)
            repeated = find_repeated(messages, calls)
            if not calls or limit or repeated:
                for event in self._answer(question, answer, repeated, limit):
                    yield event
                return
            async for event in self._make_calls(question, calls):
                yield event
            if self._store.waiting(owner, conversation):
                yield self._done(owner, conversation, "", "confirmation")
                return

    def _open_question(self, owner: str, conversation: str, messages: list[Message]) -> Question:
        """Return what stays the same in all rounds of a question."""
        passages = self._passages(messages)
        style, summary = self._store.style(owner, conversation), self._store.summary(owner, conversation)
        return Question(
            owner,
            conversation,
            messages,
            offered=self._offer(messages),
            untrusted=[*(passage.text for passage in passages), *filter(None, [summary])],
            sources=tuple(passage.source for passage in passages),
            system=compose_system(self._system, self._prompt, style, passages, summary),
            progress=self._store.progress(owner, conversation),
        )

    def _read_calls(self, question: Question, answer: Answer) -> list[RequestedCall]:
        """Return an answer's calls, checked; the question's progress has the answer from here on."""
        messages, progress = question.messages, question.progress
        used = answer.prompt_tokens + answer.completion_tokens or history.estimate_tokens(messages)
        question.progress = Progress(progress.round + 1, progress.tokens + used)
        self._store.set_progress(question.conversation, question.progress)
        untrusted = [*history.results_since_question(messages), *question.untrusted]
        prefix = f"call_{len(messages)}_{question.progress.round}"
        return read_calls(answer, prefix, self._named(question.offered), untrusted, self._limits.calls)

    def _answer(self, question: Question, answer: Answer, repeated: Sequence[str], limit: str) -> Iterator[Event]:
        """Yield the end of a question: the model's text, or what its calls returned where it says nothing."""
        reason = "repeated" if repeated else limit or answer.finish_reason
        text = "" if _has_calls(answer) else answer.text
        if text.strip():
            yield from self._conclude(question, text, reason, is_shown=True)
        else:
            results = repeated or history.results_since_question(question.messages)[::-1]
            yield from self._conclude(question, "\n".join(results), reason)

    def _conclude(self, question: Question, text: str, reason: str, *, is_shown: bool = False) -> Iterator[Event]:
        """Keep an answer, and yield it, unless its text was shown already, and the end."""
        turn = {"role": "assistant", "content": text or history.NO_ANSWER}
        self._add(question.owner, question.conversation, question.messages, [turn])
        if text and not is_shown:
            yield Text(text)
        yield self._done(question.owner, question.conversation, text, reason, question.sources)

    async def _make_calls(self, question: Question, calls: Sequence[RequestedCall]) -> AsyncIterator[Event]:
        """Run what may run, all at once; write down what waits."""
        owner, conversation = question.owner, question.conversation
        turn = {"role": "assistant", "content": None, "tool_calls": [call.as_message_part() for call in calls]}
        self._add(owner, conversation, question.messages, [turn])
        running = [call for call in calls if not call.problem and not call.confirm]
        for call in running:
            yield Called(call.name, call.arguments)
        outcomes = await asyncio.gather(*(self._run(owner, conversation, call) for call in running))
        done = [(call, Outcome(call.problem, False)) for call in calls if call.problem]
        done += list(zip(running, outcomes, strict=True))
        waiting = [call for call in calls if call.confirm]
        pending = [self._store.add_pending(owner, conversation, call.id, call.name, call.arguments) for call in waiting]
        self._add(owner, conversation, question.messages, [_result(call, outcome) for call, outcome in done])
        for call, outcome in done:
            yield Returned(call.name, outcome.text, outcome.ok)
        for call, entry in zip(waiting, pending, strict=True):
            with self._trace.step(conversation, "waiting", tool=call.name, arguments=call.arguments, why=call.confirm):
                pass
            yield Waiting(entry, call.confirm)

    async def _run(self, owner: str, conversation: str, call: RequestedCall, *, is_confirmed: bool = False) -> Outcome:
        """Return the outcome of a call, as the model reads it. The one place where handlers are run."""
        handler = self._handlers.get(call.name)
        if handler is None:
            return Outcome(f"there is no tool {call.name!r} any more", False)
        if handler.confirm and not is_confirmed:
            raise AssertionError(f"{call.name}: a dangerous call that was not confirmed")
        if problem := handler.known.check(call.arguments):
            return Outcome(f"{call.name} did not run: {problem}", False)
        with self._trace.step(conversation, "call", tool=call.name, arguments=call.arguments) as step:
            with calling(Caller(owner, conversation, self._store)):
                outcome = await run_handler(handler, call.arguments)
            text = neutralise(cut(outcome.text, self._limits.result_characters))
            step |= {"ok": outcome.ok, "result": text, "result_characters": len(outcome.text)}
        return Outcome(text, outcome.ok)

    async def _ask_model(self, question: Question, tools: Sequence[dict[str, Any]]) -> AsyncIterator[Text | Answer]:
        """Yield an answer's text as it arrives, and at last the answer. Text that may be calls comes at the end."""
        system, messages = question.system, question.messages
        prompt = history.in_order(messages[-1:] if self._picks_only else messages)
        if system.text:
            prompt.insert(0, {"role": "system", "content": system.text})
        known: dict[str, Any] = {
            "round": question.progress.round + 1,
            "tools": len(tools),
            "prompts": system.prompts,
        }
        with self._trace.step(question.conversation, "model", **known) as step:
            text, shown, first_ms, started = "", 0, None, time.perf_counter()
            url = self._chat.provider.base_url
            headers = prompt_headers(url, system.prompts) | self._trace.headers(url)
            sampling = {"temperature": 0, "max_tokens": self._limits.answer_tokens, "extra_headers": headers}
            async for piece in self._chat.stream(prompt, tools, **sampling):
                if isinstance(piece, Answer):
                    step |= {"prompt_tokens": piece.prompt_tokens, "completion_tokens": piece.completion_tokens}
                    step |= {"text": piece.text, "calls": [call.name for call in piece.tool_calls]}
                    step |= {"finish": piece.finish_reason, "first_token_ms": first_ms}
                    if shown < len(text) and not _has_calls(piece):
                        yield Text(text[shown:])
                    yield piece
                elif piece.text:
                    first_ms = first_ms or round((time.perf_counter() - started) * 1000, 1)
                    text += piece.text
                    if text.strip() and text.lstrip()[0] not in CALL_STARTS:
                        yield Text(text[shown:])
                        shown = len(text)

    def _offer(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the tools that the model is shown, as in its training; the user's own words choose them."""
        tools = [handler.known.schema() for handler in self._handlers.values()]
        return self._selector.select(list(messages), tools) if self._selector else tools

    def _named(self, offered: Sequence[dict[str, Any]]) -> Handlers:
        wires = {tool["function"]["name"] for tool in offered}
        return {name: handler for name, handler in self._handlers.items() if wire_name(name) in wires}

    def _reached(self, progress: Progress) -> str:
        """Return which limit a question has reached, or an empty string."""
        if progress.round >= self._limits.rounds:
            return "rounds"
        return "tokens" if progress.tokens >= self._limits.tokens else ""

    def _add(self, owner: str, conversation: str, messages: list[Message], added: Sequence[Message]) -> None:
        if added:
            self._store.append(owner, conversation, len(messages), added)
            messages += added

    def _passages(self, messages: Sequence[Message]) -> list[Passage]:
        """Return what documents say that is nearest to the user's last words."""
        if self._documents is None:
            return []
        question = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
        return self._documents.nearest(question, self._limits.document_tokens)

    def _done(self, owner: str, conversation: str, text: str, reason: str, sources: tuple[str, ...] = ()) -> Done:
        progress = self._store.progress(owner, conversation)
        with self._trace.step(conversation, "end", reason=reason, rounds=progress.round, tokens=progress.tokens):
            pass
        return Done(conversation, text, reason, progress.round, progress.tokens, sources)

    def _lock(self, conversation: str) -> asyncio.Lock:
        lock = self._locks.get(conversation)
        if lock is None:
            lock = self._locks[conversation] = asyncio.Lock()
        return lock


def _result(call: RequestedCall, outcome: Outcome) -> Message:
    return {"role": "tool", "tool_call_id": call.id, "content": outcome.text}


def _has_calls(answer: Answer) -> bool:
    """Return whether an answer is calls: also one whose text is, where none were offered and nobody parsed them."""
    return bool(answer.tool_calls or answer.raw_tool_calls or parse_tool_calls(answer.text))
