"""Prompts as the report shows them: messages by role, without control tokens, whatever the base's template."""

import pytest

from tuneline.stages.report.readable_prompts import split_prompt

LLAMA_3 = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhere is Ana?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        (LLAMA_3, [("system", "Be brief."), ("user", "Where is Ana?")]),
        (LLAMA_3[60:], [("", "Be brief."), ("user", "Where is Ana?")]),  # events keep the end of a long prompt
        ("<s>[INST] Where is Ana? [/INST]", [("user", "Where is Ana?")]),
        ("<|im_start|>user\nWhere is Ana?<|im_end|>\n<|im_start|>assistant\n", [("user", "Where is Ana?")]),
        ("<|header_start|>user<|header_end|>\n\nHi<|eot|>", [("user", "Hi")]),
        ("a < b and [x]", [("", "a < b and [x]")]),
    ],
)
def test_a_prompt_is_split_into_its_messages(prompt: str, messages: list[tuple[str, str]]) -> None:
    assert split_prompt(prompt) == messages
