"""What CrewAI gets of a gateway, as JSON. Arguments: its address with /v1, a key, a model."""

import contextlib
import json
import os
import sys

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "OTEL_SDK_DISABLED": "true"}

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from pydantic import BaseModel


@tool("weather")
def weather(city: str) -> str:
    """The weather in a city."""
    return f"7 degrees in {city}"


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


def main(url: str, key: str, model: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        llm = LLM(model=f"openai/{model}", base_url=url, api_key=key)
        parsed = LLM(model=f"openai/{model}", base_url=url, api_key=key, response_format=Weather)
        agent = Agent(role="Forecaster", goal="tell the weather", backstory="brief", llm=llm, tools=[weather])
        task = Task(description="weather in Oslo?", expected_output="degrees", agent=agent)
        crew = Crew(agents=[agent], tasks=[task], verbose=False).kickoff()
        structured = parsed.call("weather in Oslo, as JSON")
        answer = {
            "text": llm.call("hello"),
            "streamed": LLM(model=f"openai/{model}", base_url=url, api_key=key, stream=True).call("hello"),
            "parsed": structured.model_dump() if isinstance(structured, BaseModel) else json.loads(structured),
            "crew": crew.raw,
            "tokens": crew.token_usage.completion_tokens,
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
