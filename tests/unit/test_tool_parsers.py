"""What a base's template writes for calls is what the parser that models.yaml names for it reads."""

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.models import registry
from tuneline.engines.tool_calls import MISTRAL, to_llama3_text
from tuneline.engines.vllm.tool_parsers import LLAMA_4, LLAMA_4_PLUGIN, tool_parser_for
from tuneline.engines.vllm.vllm_server import EXECUTABLE, find_vllm, serve_arguments
from tuneline.stages.prepare.rendering.chat_templates import LOSS_BEGIN, LOSS_END, TEMPLATES_FOLDER, compile_template
from tuneline.stages.prepare.rendering.template_choice import FRAMES_WITHOUT_TOOLS, add_hermes_tools

Calls = list[tuple[str, dict[str, Any]]]
CALLS: Calls = [
    ("docs__create", {"title": 'a "plan"; {b}', "pages": 2, "tags": ["x", {"y": None}]}),
    ("rag__search", {}),
    ("whatsapp__send", {"to": "Ana", "urgent": True}),
]
MODELS = registry().models
FILES = {file.stem: file.read_text("utf-8") for file in TEMPLATES_FOLDER.glob("*.jinja") if file.stem != "hermes"}
TEMPLATES = {
    name.replace("llama-", "llama"): add_hermes_tools(text) if name in FRAMES_WITHOUT_TOOLS else text
    for name, text in FILES.items()
}
"""Ours, by the names models.yaml has for them."""
OF_HERMES = sorted(name.replace("llama-", "llama") for name in FRAMES_WITHOUT_TOOLS)
NOT_OURS = {"mistral-v7", "deepseek"}
"""Templates that no package here has: their bases are refused unless the user brings one that marks what is learned."""


def of_qwen() -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates/qwen2_5.jinja").read_text("utf-8")


def read_by_llama3_json(text: str) -> Calls:
    """As vllm/tool_parsers/llama_tool_parser.py, 0.32, reads a whole answer."""
    end, calls, decoder = -1, [], json.JSONDecoder()
    for brace in re.finditer(r"\{", text):
        if brace.start() <= end:
            continue
        try:
            call, length = decoder.raw_decode(text[brace.start() :])
            end = brace.start() + length
            calls.append((call["name"], call["arguments"] if "arguments" in call else call["parameters"]))
        except (KeyError, ValueError):
            return []
    return calls


def read_by_hermes(text: str) -> Calls:
    found = [json.loads(call) for call in re.findall(r"<tool_call>(.*?)</tool_call>", text, re.S)]
    return [(call["name"], call["arguments"]) for call in found]


def read_by_mistral(text: str) -> Calls:
    """As vllm/parser/mistral.py, 0.32, reads a whole answer of a tokenizer without `[ARGS]`."""
    begun, _, rest = text.partition(MISTRAL)
    assert not begun
    found, _ = json.JSONDecoder().raw_decode(rest.strip())
    return [(call["name"], call["arguments"]) for call in found]


READ: dict[str, Callable[[str], Calls]] = {
    "llama3_json": read_by_llama3_json,
    LLAMA_4: lambda text: read_by_llama3_json(to_llama3_text(text)),
    "hermes": read_by_hermes,
    "mistral": read_by_mistral,
}


def written(template: str, calls: Calls, content: str = "") -> str:
    """The assistant's turn, without what ends it."""
    entries = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]
    asked = {"role": "user", "content": "do it"}
    special: dict[str, Any] = {"bos_token": "", "eos_token": "<|eot_id|>", "tools": None}
    text = compile_template(template).render(
        messages=[asked, {"role": "assistant", "content": content, "tool_calls": entries}], **special
    )
    text = text.replace(LOSS_BEGIN, "").replace(LOSS_END, "")
    begun = compile_template(template).render(messages=[asked], add_generation_prompt=True, **special)
    return re.sub(r"\s*<\|(eot_id|eot|im_end|EOT)\|>\s*$", "", text.removeprefix(begun))


@pytest.mark.parametrize("key", [key for key, model in MODELS.items() if model.tool_parser])
def test_the_parser_reads_what_the_template_writes(key: str) -> None:
    model = MODELS[key]
    assert model.template and model.tool_parser
    if model.template in NOT_OURS:
        pytest.skip("no package here has this template")
    template = TEMPLATES.get(model.template) or of_qwen()
    for calls in (CALLS[:1], CALLS):
        assert READ[model.tool_parser](written(template, calls)) == calls


@pytest.mark.parametrize("key", [key for key, model in MODELS.items() if model.template in TEMPLATES])
def test_a_base_with_a_template_of_ours_has_a_parser(key: str) -> None:
    assert MODELS[key].tool_parser


def test_llama_3s_own_parser_would_read_no_two_calls_of_llama_4() -> None:
    text = written(TEMPLATES["llama4"], CALLS)
    assert read_by_llama3_json(text) == [] and text.count("}{") == 2


@pytest.mark.parametrize("text", ["", "42 apples", "Hello {x}", '{"a": 1', "<|python_start|>", '{"a": 1}', "{" * 9000])
def test_text_that_is_no_calls_of_llama_4_stays(text: str) -> None:
    assert to_llama3_text(text) == text.removeprefix("<|python_start|>")


def test_the_server_is_started_with_the_parser_of_its_base(tmp_path: Path) -> None:
    def told(base: str, family: str) -> Sequence[str]:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
        return serve_arguments(tmp_path, "a", 1, 2048, tool_parser_for(base, tmp_path), {}, 8, 1, True)

    scout = told("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4")
    assert scout[scout.index("--tool-call-parser") + 1] == LLAMA_4
    assert scout[scout.index("--tool-parser-plugin") + 1] == str(LLAMA_4_PLUGIN) and LLAMA_4_PLUGIN.exists()
    assert LLAMA_4 in told("llama-4-scout", "llama4_text"), "a base without a template gets ours"
    (tmp_path / "tokenizer.json").write_text(json.dumps(MISTRAL))
    assert "mistral" in told("a folder", "mistral")
    llama = told("meta-llama/Llama-3.1-8B-Instruct", "llama")
    assert llama[llama.index("--tool-call-parser") + 1] == "llama3_json" and "--tool-parser-plugin" not in llama


BESIDE = "Let me look: 2 < 3."
LLAMA_4_BEGINS = "<|python_start|><|python_end|>"


@pytest.mark.parametrize(
    ("name", "control", "text", "beside"),
    [
        (LLAMA_4, "<|python_start|>", written(TEMPLATES["llama4"], CALLS), ""),
        (LLAMA_4, "<|python_start|>", written(TEMPLATES["llama4"], CALLS).removeprefix(LLAMA_4_BEGINS), ""),
        ("mistral", MISTRAL, written(TEMPLATES["mistral"], CALLS), ""),
        ("llama3_json", "<|python_tag|>", written(TEMPLATES["llama3.1"], CALLS), ""),
        *(("hermes", "<tool_call>", written(TEMPLATES[name], CALLS), "") for name in OF_HERMES),
        *(("hermes", "<tool_call>", written(TEMPLATES[name], CALLS, BESIDE), BESIDE) for name in OF_HERMES),
    ],
)
def test_vllm_itself_reads_them_whole_and_streamed(name: str, control: str, text: str, beside: str) -> None:
    """Llama 4's with the tokens before the calls, and as the server says it: without. Hermes' with text beside them."""
    vllm = find_vllm()
    if vllm is None:
        pytest.skip(f"no vLLM: {EXECUTABLE} names none")
    script, task = Path(__file__).with_name("read_by_vllm.py"), {"plugin": str(LLAMA_4_PLUGIN), "parser": name}
    task |= {"control": control, "text": text}
    python = [str(vllm.with_name("python")), "-P", str(script)]
    output = subprocess.run(python, input=json.dumps(task), capture_output=True, text=True, check=True).stdout
    result = json.loads(output.splitlines()[-1])
    calls = [list(call) for call in CALLS]
    expected = {"whole": calls, "prose": [False, "Hello {x}"], "streamed": calls, "beside": [beside, beside]}
    assert result == expected
