"""vLLM's parser for the calls our Llama 4 template writes, which is Meta's own: JSON. Given to vLLM as a plugin.

vLLM has `llama4_pythonic`, for calls written as Python, and `llama4_json`, which wants `<|python_tag|>` among the
tokens: Llama 4 has `<|python_start|>` in its place. And it reads several calls only if they are apart: Llama 3 puts
`"; "` between them, Llama 4 nothing. Source: vllm/tool_parsers/llama_tool_parser.py, 0.32.
"""

from typing import Any

from vllm.tool_parsers.abstract_tool_parser import ToolParserManager
from vllm.tool_parsers.llama_tool_parser import Llama3JsonToolParser

from tuneline.engines.tool_calls import LLAMA_4_END, LLAMA_4_START, as_llama_3
from tuneline.engines.vllm.vllm_server import LLAMA_4


class Llama4Calls(Llama3JsonToolParser):
    """As `llama3_json`, for text that begins with Llama 4's tokens or, where the server leaves them out, a call."""

    bot_token = LLAMA_4_START

    def extract_tool_calls(self, model_output: str, request: Any) -> Any:
        found = super().extract_tool_calls(as_llama_3(model_output), request)
        return found if found.tools_called else found.model_copy(update={"content": model_output})

    def extract_tool_calls_streaming(
        self, previous_text: str, current_text: str, delta_text: str, *more: Any, **named: Any
    ) -> Any:
        if current_text in (LLAMA_4_START, LLAMA_4_START + LLAMA_4_END):
            return None  # nothing is said yet
        return super().extract_tool_calls_streaming(
            as_llama_3(previous_text), as_llama_3(current_text), delta_text, *more, **named
        )


ToolParserManager.register_module(LLAMA_4, module=Llama4Calls)
