"""What LiteLLM gets of a gateway, as JSON. Arguments: its address with /v1, a key, a model."""

import json
import sys
from typing import Any

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}


def main(url: str, key: str, model: str) -> None:
    def ask(text: str, **more: Any) -> Any:
        messages = [{"role": "user", "content": text}]
        return litellm.completion(model=f"openai/{model}", api_base=url, api_key=key, messages=messages, **more)

    answer = ask("hello")
    streamed = list(ask("hello", stream=True, stream_options={"include_usage": True}))
    call = ask("weather in Oslo?", tools=[TOOL], tool_choice="auto").choices[0].message.tool_calls[0].function
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    scored = ask("hello", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    print(json.dumps({
        "text": answer.choices[0].message.content,
        "tokens": answer.usage.completion_tokens,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices),
        "streamed_tokens": next(chunk.usage.completion_tokens for chunk in streamed if getattr(chunk, "usage", None)),
        "call": [call.name, json.loads(call.arguments)],
        "parsed": json.loads(ask("weather in Oslo, as JSON", response_format=form).choices[0].message.content),
        "logprobs": [entry.token if hasattr(entry, "token") else entry["token"] for entry in scored],
        "refused": refusal(ask),
    }))  # fmt: skip


def refusal(ask: Any) -> str:
    try:
        ask("hello", top_p=7)
    except litellm.BadRequestError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
