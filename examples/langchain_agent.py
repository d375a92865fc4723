"""A LangChain model on the gateway that calls a tool and answers with its result.

pip install langchain-openai
python examples/langchain_agent.py http://127.0.0.1:8080/v1 KEY MODEL
"""

import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

RATES = {"EUR": 17650, "USD": 16250}
MAX_ROUNDS = 4


@tool
def rate(currency: str) -> str:
    """The rate of a currency in rupiah."""
    return f"1 {currency} = {RATES[currency]} IDR"


def main(url: str, key: str, model: str) -> str:
    """Return the answer to a question about a rate."""
    chat = ChatOpenAI(base_url=url, api_key=key, model=model, temperature=0).bind_tools([rate])
    messages = [HumanMessage("Look up the rate of EUR.")]
    for _ in range(MAX_ROUNDS):
        answer = chat.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return str(answer.content)
        messages += [ToolMessage(rate.invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls]
    return "no answer"


if __name__ == "__main__":
    sys.stdout.write(main(*sys.argv[1:]) + "\n")
