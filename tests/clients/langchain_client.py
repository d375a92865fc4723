"""What LangChain gets of a gateway, as JSON. Arguments: its address with /v1, a key, a model."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"7 degrees in {city}"


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


def main(url: str, key: str, model: str) -> None:
    chat = ChatOpenAI(base_url=url, api_key=key, model=model, max_retries=0, stream_usage=True)
    answer = chat.invoke("hello")
    chunks = list(chat.stream("hello"))
    question = HumanMessage("weather in Oslo?")
    with_tools = chat.bind_tools([weather])
    called = with_tools.invoke([question])
    call = called.tool_calls[0]
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    scored = chat.bind(logprobs=True, top_logprobs=2).invoke("hello").response_metadata["logprobs"]["content"]
    print(json.dumps({
        "text": answer.text,
        "tokens": answer.usage_metadata["output_tokens"],
        "streamed": "".join(chunk.text for chunk in chunks),
        "streamed_tokens": next((chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata), 0),
        "call": [call["name"], call["args"]],
        "after_the_call": with_tools.invoke([question, called, result]).text,
        "parsed": chat.with_structured_output(Weather).invoke("weather in Oslo, as JSON").model_dump(),
        "logprobs": [entry["token"] for entry in scored],
        "refused": refusal(chat),
    }))  # fmt: skip


def refusal(chat: ChatOpenAI) -> str:
    from openai import BadRequestError

    try:
        chat.bind(top_p=7).invoke("hello")
    except BadRequestError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
