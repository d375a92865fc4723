"""vLLM's parser for the calls that our Llama 4 template writes, in Meta's own JSON form. vLLM loads it as a plugin.

vLLM has `llama4_pythonic`, for calls written as Python, and `llama4_json`, which requires `<|python_tag|>` among the
tokens: Llama 4 has `<|python_start|>` in its place. And it reads several calls only if they are separated: Llama 3
writes `"; "` between them, Llama 4 nothing. Source: vllm/tool_parsers/llama_tool_parser.py, 0.32.
"""

from typing import Any

from vllm.tool_parsers.abstract_tool_parser import ToolParserManager
from vllm.tool_parsers.llama_tool_parser import Llama3JsonToolParser

from tuneline.engines.tool_calls import LLAMA_4_END, LLAMA_4_START, to_llama3_text
from tuneline.engines.vllm.tool_parsers import LLAMA_4


class Llama4Calls(Llama3JsonToolParser):
    """`llama3_json` for text that begins with Llama 4's tokens or, where the server leaves them out, with a call."""

    bot_token = LLAMA_4_START

    def extract_tool_calls(self, model_output: str, request: Any) -> Any:
        extracted = super().extract_tool_calls(to_llama3_text(model_output), request)
        return extracted if extracted.tools_called else extracted.model_copy(update={"content": model_output})

    def extract_tool_calls_streaming(
        self, previous_text: str, current_text: str, delta_text: str, *args: Any, **kwargs: Any
    ) -> Any:
        if current_text in (LLAMA_4_START, LLAMA_4_START + LLAMA_4_END):
            return None  # no call has begun yet
        return super().extract_tool_calls_streaming(
            to_llama3_text(previous_text), to_llama3_text(current_text), delta_text, *args, **kwargs
        )


ToolParserManager.register_module(LLAMA_4, module=Llama4Calls)
