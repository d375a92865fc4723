"""Prompts that llama.cpp's server and Ollama make of conversations, compared with those of transformers."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tuneline.core.files import write_atomic
from tuneline.stages.checkpoints.base_config import read_config
from tuneline.stages.convert import ollama_modelfile
from tuneline.stages.convert.conversations import Conversation, render_prompt
from tuneline.stages.convert.ollama_modelfile import Turns
from tuneline.stages.convert.verification.check import Check
from tuneline.stages.convert.verification.samples import HARD_CONVERSATIONS, Samples
from tuneline.stages.convert.verification.tokenizer_checks import stop_token_ids

MAX_SERVED = 8
"""Conversations of the run whose prompt is compared."""


def check_served_template(files: Sequence[Path], samples: Samples, log: Path) -> Check:
    """Compare prompts, tools included, of llama.cpp's server; it serves the smallest of `files`."""
    from tuneline.engines.llama_cpp.llama_server import start_llama_server

    smallest = min(files, key=lambda file: file.stat().st_size)
    conversations = [*samples.conversations[:MAX_SERVED], *samples.conversations[-len(HARD_CONVERSATIONS) :]]
    with start_llama_server(smallest, alias="m", log=log, context=64, threads=1) as server:
        for conversation in conversations:
            expected = render_prompt(samples.tokenizer, conversation)
            served = _request_prompt(server.base_url.removesuffix("/v1"), conversation)
            # The server leaves the first token out of the text and puts it before the ids.
            if expected not in (served, (samples.tokenizer.bos_token or "") + served):
                return Check("rendered_template", smallest.name, False, f"{expected!r}, but it is served {served!r}")
    return Check("rendered_template", smallest.name, True, f"{len(conversations)} conversations")


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


def check_modelfile(gguf: Path, turns: Turns, samples: Samples) -> Check:
    """Write the Modelfile of a GGUF, read it again, and compare its prompts and stop tokens."""
    tokenizer, file = samples.tokenizer, gguf.with_suffix(ollama_modelfile.SUFFIX)
    stops = tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer))
    context = min(read_config(Path(tokenizer.name_or_path))["max_position_embeddings"], ollama_modelfile.MAX_CONTEXT)
    write_atomic(file, ollama_modelfile.format_modelfile(gguf.name, turns, stops, context=context))
    modelfile = ollama_modelfile.parse_modelfile(file.read_text("utf-8"))
    conversations = [
        Conversation([message | {"content": message["content"].strip()} for message in conversation.messages], None)
        for conversation in HARD_CONVERSATIONS
    ]
    first = tokenizer.bos_token or ""
    expected = [render_prompt(tokenizer, conversation).removeprefix(first) for conversation in conversations]
    template = modelfile["TEMPLATE"][0]
    prompts = [ollama_modelfile.render_go_template(template, conversation.messages) for conversation in conversations]
    passed = (modelfile["FROM"], modelfile["PARAMETER stop"], prompts) == ([f"./{gguf.name}"], stops, expected)
    return Check("ollama", file.name, passed, f"{len(conversations)} conversations, stops at {', '.join(stops)}")
