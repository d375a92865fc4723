"""Run by a Python that has vLLM: reads calls from a text with one of its parsers, whole and streamed.

Standard input: JSON with `plugin`, `parser`, `control` (a token the parser looks for) and `text`. Standard output: JSON
with the calls of both ways as `[name, arguments]`, the text beside them, and what it makes of a text without calls.
"""

import json
import re
import sys
from typing import Any

MISTRAL = "[TOOL_CALLS]"


def main() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers.abstract_tool_parser import ToolParserManager

    task = json.load(sys.stdin)
    ToolParserManager.import_tool_parser(task["plugin"])
    kind: Any = ToolParserManager.get_tool_parser(task["parser"])
    request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "do it"}])

    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            return {task["control"]: 0}

    whole = kind(Tokenizer()).extract_tool_calls(task["text"], request)
    prose = kind(Tokenizer()).extract_tool_calls("Hello {x}", request)
    streamed, content = stream(kind(Tokenizer()), pieces_of(task["text"], task["parser"]), request)
    result = {
        "whole": [[call.function.name, json.loads(call.function.arguments)] for call in whole.tool_calls],
        "prose": [prose.tools_called, prose.content],
        "streamed": streamed,
        "beside": [(whole.content or "").strip(), content.strip()],
    }
    print(json.dumps(result))  # noqa: T201


def stream(parser: Any, pieces: list[str], request: Any) -> tuple[list[list[Any]], str]:
    """Return the calls, and the text beside them."""
    before, content, calls = "", "", dict[int, list[str]]()
    for piece in pieces:
        delta = parser.extract_tool_calls_streaming(before, before + piece, piece, [], [], [], request)
        before += piece
        content += (delta.content or "") if delta else ""
        for part in delta.tool_calls if delta else ():
            call = calls.setdefault(part.index, ["", ""])
            call[0] += part.function.name or ""
            call[1] += part.function.arguments or ""
    return [[name, json.loads(arguments or "{}")] for name, arguments in calls.values()], content


def pieces_of(text: str, parser: str) -> list[str]:
    """Return the text in tokens. Mistral's `":` is one; a colon that comes alone, its parser takes for the value's."""
    if parser != "mistral":
        return re.findall(r"(?s)<\|\w+\|>|.{1,3}", text)
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    tokenizer: Any = MistralTokenizer.v3().instruct_tokenizer.tokenizer
    ids = tokenizer.encode(text.removeprefix(MISTRAL), bos=False, eos=False)
    return [MISTRAL, *(tokenizer.id_to_piece(token).replace("▁", " ") for token in ids)]


if __name__ == "__main__":
    main()
