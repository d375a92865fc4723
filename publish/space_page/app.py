"""A chat page that asks a server which speaks OpenAI's API: the file app.py of a Hugging Face Space.

Variables: MODEL_URL (with /v1), MODEL_NAME, and the secret API_KEY. A model's answer is shown as text, never as HTML.
"""

import os
from collections.abc import Iterator
from typing import Any

import gradio as gr
from openai import OpenAI, OpenAIError

NAME = os.environ["MODEL_NAME"]
LONGEST_MESSAGE = 8000
"""Characters of a message; the server has a limit of its own for the whole conversation."""


def answer(message: str, history: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the answer so far, as it is written."""
    client = OpenAI(base_url=os.environ["MODEL_URL"], api_key=os.environ.get("API_KEY") or "none", timeout=120)
    turns = [{"role": turn["role"], "content": _to_text(turn["content"])} for turn in history]
    messages: Any = [*turns, {"role": "user", "content": message[:LONGEST_MESSAGE]}]
    written = ""
    try:
        for chunk in client.chat.completions.create(model=NAME, messages=messages, stream=True):
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                written += piece
                yield written
    except OpenAIError as error:  # its text may have the server's address
        raise gr.Error(f"The model did not answer ({type(error).__name__}); try again later.") from None


def _to_text(content: Any) -> str:
    """Return a turn's text; Gradio keeps it as a list of parts."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return "".join(part["text"] for part in parts if part.get("type") == "text")


page = gr.ChatInterface(
    answer,
    chatbot=gr.Chatbot(render_markdown=False, sanitize_html=True, label=NAME),
    title=NAME,
    api_name="chat",
)

if __name__ == "__main__":
    page.launch()
