"""What `LiteLLMProvider` says of a peer, as JSON. Arguments: its address with /v1, its key, a wrong one."""

import asyncio
import json
import os
import sys
from typing import Any

from tuneline.core.errors import TunelineError
from tuneline.endpoints.llm_providers import LiteLLMProvider
from tuneline.engines.chat_messages import Answer

ASKED = [{"role": "user", "content": "hello"}]


async def ask(url: str, model: str, *, streamed: bool = False) -> tuple[Any, float | None]:
    async with LiteLLMProvider(model, url=url, key_variable="PEER_KEY", usd_per_million=(1, 2)) as llm:
        if not streamed:
            answer = await llm.ask(ASKED)
        else:
            *_, answer = [piece async for piece in llm.stream(ASKED)]  # type: ignore[misc]
        assert isinstance(answer, Answer)
        return answer, llm.price_usd(answer)


def describe(answer: Answer) -> dict[str, Any]:
    tokens = [answer.prompt_tokens, answer.completion_tokens]
    return {"text": answer.text, "finish": answer.finish_reason, "tokens": tokens}


def refusal(url: str, model: str, **more: Any) -> str:
    try:
        asyncio.run(ask(url, model, **more))
    except TunelineError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(url: str, key: str, wrong: str) -> None:
    os.environ["PEER_KEY"] = key
    whole, usd = asyncio.run(ask(url, "openai/stop"))
    streamed, _ = asyncio.run(ask(url, "openai/stop", streamed=True))
    busy, _ = asyncio.run(ask(url, "openai/busy"))
    said = {"ask": describe(whole), "stream": describe(streamed), "usd": usd, "busy": busy.text}
    said["broken"] = refusal(url, "openai/broken", streamed=True)
    said["unknown"] = refusal(url, "nobody-has-this/model")
    os.environ["PEER_KEY"] = wrong
    said["refused"] = refusal(url, "openai/stop")
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
