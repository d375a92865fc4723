"""An agent of OpenAI's Agents SDK on the gateway, by its chat API.

pip install openai-agents
python examples/openai_agents.py http://127.0.0.1:8080/v1 KEY MODEL
"""

import asyncio
import sys

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

RATES = {"EUR": 17650, "USD": 16250}


@function_tool
def rate(currency: str) -> str:
    """The rate of a currency in rupiah."""
    return f"1 {currency} = {RATES[currency]} IDR"


async def main(url: str, key: str, model: str) -> str:
    """Return the answer to a question about a rate."""
    set_tracing_disabled(True)  # it would send what was said to OpenAI
    chat = OpenAIChatCompletionsModel(model=model, openai_client=AsyncOpenAI(base_url=url, api_key=key))
    agent = Agent(name="Clerk", instructions="Look up rates.", model=chat, tools=[rate])
    result = await Runner.run(agent, "Look up the rate of EUR.", max_turns=4)
    return str(result.final_output)


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(main(*sys.argv[1:])) + "\n")
