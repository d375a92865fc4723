"""Two CrewAI agents on the gateway: one looks things up with a tool, the other writes it up.

pip install crewai
python examples/crew.py http://127.0.0.1:8080/v1 KEY MODEL
"""

import os
import sys

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "OTEL_SDK_DISABLED": "true"}

from crewai import LLM, Agent, Crew, Process, Task
from crewai.tools import tool

RATES = {"EUR": 17650, "USD": 16250}


@tool("rate")
def rate(currency: str) -> str:
    """The rate of a currency in rupiah."""
    return f"1 {currency} = {RATES[currency]} IDR"


def main(url: str, key: str, model: str) -> str:
    """Return what the crew wrote."""
    llm = LLM(model=f"openai/{model}", base_url=url, api_key=key)
    clerk = Agent(role="Clerk", goal="look up rates", backstory="brief and exact", llm=llm, tools=[rate])
    writer = Agent(role="Writer", goal="write one friendly line", backstory="writes for clients", llm=llm)
    look_up = Task(description="Look up the rate of EUR.", expected_output="the rate", agent=clerk)
    write = Task(description="Tell a client the rate.", expected_output="a line", agent=writer, context=[look_up])
    crew = Crew(agents=[clerk, writer], tasks=[look_up, write], process=Process.sequential, verbose=False)
    return str(crew.kickoff().raw)


if __name__ == "__main__":
    sys.stdout.write(main(*sys.argv[1:]) + "\n")
