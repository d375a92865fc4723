"""Prompts that llama.cpp's server and Ollama make of conversations, compared with those of transformers."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tuneline.core.files import write_atomic
from tuneline.stages.convert.conversations import Conversation, render_prompt
from tuneline.stages.convert.ollama.go_template import render_go_template
from tuneline.stages.convert.ollama.modelfile import SUFFIX, Modelfile, parse_modelfile
from tuneline.stages.convert.verification.check import Check
from tuneline.stages.convert.verification.samples import HARD_CONVERSATIONS, Samples

MAX_SERVED = 8
"""Conversations of the run whose prompt is compared."""


def check_served_template(files: Sequence[Path], samples: Samples, log: Path) -> Check:
    """Compare prompts, tools included, of llama.cpp's server; it serves the smallest of `files`."""
    from tuneline.engines.llama_cpp.llama_server import start_llama_server

    smallest = min(files, key=lambda file: file.stat().st_size)
    conversations = [*samples.conversations[:MAX_SERVED], *samples.conversations[-len(HARD_CONVERSATIONS) :]]
    compared = 0
    with start_llama_server(smallest, alias="m", log=log, context=64, threads=1) as server:
        for conversation in conversations:
            expected = render_prompt(samples.tokenizer, conversation)
            if not _writes_system(expected, conversation):
                continue  # the server puts it into the question; `prepare` refuses such rows
            served = _request_prompt(server.base_url.removesuffix("/v1"), conversation)
            # The server leaves the first token out of the text and puts it before the ids.
            if expected not in (served, (samples.tokenizer.bos_token or "") + served):
                return Check("rendered_template", smallest.name, False, f"{expected!r}, but it is served {served!r}")
            compared += 1
    return Check("rendered_template", smallest.name, True, f"{compared} conversations")


def _writes_system(prompt: str, conversation: Conversation) -> bool:
    """Return whether a template wrote the system message of a conversation, if it has one."""
    first = conversation.messages[0]
    return first["role"] != "system" or first["content"].strip() in prompt


def _request_prompt(url: str, conversation: Conversation) -> str:
    """Return the prompt that the server at `url` makes of a conversation."""
    messages = json.loads(json.dumps(conversation.prompt))
    for call in (call for message in messages for call in message.get("tool_calls") or ()):
        call |= {"id": "1"}
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])  # as clients send them
    body = {"messages": messages} | ({"tools": conversation.tools} if conversation.tools else {})
    request = urllib.request.Request(
        f"{url}/apply-template", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        prompt: str = json.loads(response.read())["prompt"]
    return prompt


def check_modelfile(gguf: Path, modelfile: Modelfile, samples: Samples) -> Check:
    """Write the Modelfile of a GGUF, read it again, and compare its prompts and stop tokens."""
    file = gguf.with_suffix(SUFFIX)
    write_atomic(file, modelfile.write(gguf.name))
    instructions = parse_modelfile(file.read_text("utf-8"))
    stops = instructions.get("PARAMETER stop", [])
    passed = (instructions["FROM"], stops) == ([f"./{gguf.name}"], list(modelfile.stops))
    detail = f"stops at {', '.join(stops)}"
    if template := instructions.get("TEMPLATE"):
        compared = _compare_prompts(template[0], samples)
        passed, detail = passed and all(compared), f"{len(compared)} conversations, {detail}"
    return Check("ollama", file.name, passed, detail if template else f"{modelfile.comments[0]} {detail}")


def _compare_prompts(template: str, samples: Samples) -> list[bool]:
    """Return for each plain conversation whether Ollama's template writes the prompt that the chat template writes.

    Contents are compared without spaces around them, which Go cannot strip. Ollama adds the first token itself.
    """
    bos = samples.tokenizer.bos_token or ""
    same = []
    for conversation in samples.conversations[:MAX_SERVED] + samples.conversations[-len(HARD_CONVERSATIONS) :]:
        if conversation.tools or not all(isinstance(m.get("content"), str) for m in conversation.prompt):
            continue
        messages = [{"role": m["role"], "content": m["content"].strip()} for m in conversation.prompt]
        expected = render_prompt(samples.tokenizer, Conversation(messages, None))
        if _writes_system(expected, conversation):
            prompt = render_go_template(template, messages)
            same.append(expected in (prompt, bos + prompt))
    return same
