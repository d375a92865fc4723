"""The page's own gateway answers for a finished run: its engine starts when it is asked, and is stopped at the end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import environment
from tuneline.endpoints.request_log.export import read_requests
from tuneline.ui.conversation import Conversation, Turn
from tuneline.ui.models import Models
from tuneline.ui.own_gateway import serve_runs
from tuneline.ui.run_engines import RunEngines


def test_a_finished_run_is_asked_through_the_pages_gateway(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nicegui")
    from tuneline.ui.answering import Answering

    for name, value in (environment(home) | {"TUNELINE_LOGS": str(tmp_path / "logs")}).items():
        monkeypatch.setenv(name, value)
    engines, turn = RunEngines(), Turn(question="Make a document called Budget", model="whole (run)")
    processes: list[Any] = []

    async def ask() -> None:
        async with serve_runs(engines) as client:
            models = Models(None, client, engines)
            [model] = [model for model in (await models.list_models())[0] if model.name == "whole"]
            saved = asyncio.Event()
            loop = asyncio.get_running_loop()
            conversation = Conversation(id="20260101-000000000000", turns=[turn])
            Answering(models).ask(conversation, model, lambda _: loop.call_soon_threadsafe(saved.set))
            await asyncio.wait_for(saved.wait(), 120)
            await client.send_feedback(turn.request, "good")
            processes.extend(engine.server.process for engine in engines._running.values())

    asyncio.run(ask())
    assert turn.state == "done", turn.problem
    assert turn.answer or turn.calls
    assert turn.tokens and turn.first_token_s
    [logged] = read_requests(tmp_path / "logs").values()
    assert (logged["id"], logged["model"], logged["value"]) == (turn.request, "whole", 1.0)
    assert [process.poll() is None for process in processes] == [False]
