"""Chat templates as public models have them: in words of our own, and those that installed packages bring."""

import re
from pathlib import Path
from typing import Any

from tests.conftest import CACHE
from tests.unit.test_data_render import TINY

CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' +
'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
LLAMA_2 = """{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- for turn in turns %}
{%- if (turn.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- set text = turn.content %}
{%- if loop.first and messages[0].role == 'system' %}
{%- set text = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' + text %}{% endif %}
{%- if turn.role == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
{%- else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
MISTRAL_1 = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}
{%- elif m.role == 'assistant' %}{{ m.content + eos_token + ' ' }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
MISTRAL_7 = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ '[SYSTEM_PROMPT] ' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'user' %}{% if tools and (loop.last or messages[loop.index0 + 1:] | selectattr('role', 'equalto',
'user') | list | length == 0) %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST] ' + m.content + '[/INST]' }}
{%- elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('Tool call IDs should have length 9!') }}{% endif %}
{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}{% endfor %}
{{- ']' + eos_token }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + {'content': m.content, 'call_id': m.tool_call_id} | tojson
+ '[/TOOL_RESULTS]' }}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""
DEEPSEEK_CODER = """{%- set found = namespace(system=false) -%}
{%- for message in messages if message.role == 'system' %}{% set found.system = true %}{% endfor -%}
{{bos_token}}{%- if not found.system -%}{{ 'You are an AI programming assistant.\n' }}{%- endif %}
{%- for message in messages %}{% if message.role == 'system' %}{{ message.content }}
{%- elif message.role == 'user' %}{{ '### Instruction:\n' + message.content + '\n' }}
{%- else %}{{ '### Response:\n' + message.content + '\n<|EOT|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '### Response:' }}{% endif %}"""
YI = """{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% endif %}
{%- if system_message is defined %}{{ system_message }}{% endif %}{% for message in messages %}
{%- if message.role == 'user' %}{{ '<|im_start|>user\n' + message.content + '<|im_end|>\n<|im_start|>assistant\n' }}
{%- elif message.role == 'assistant' %}{{ message.content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"""
VICUNA = """{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}
{%- elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}
{%- else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
UNSEEN = """{%- macro turn(who, what) %}{{ '⟦' + who | upper + '⟧ ' + what ~ ' ⟨over⟩\n\n' }}{% endmacro %}
{{- 'Transcript of ' ~ (messages | map(attribute='role') | unique | join(' and ')) ~ '.\n' }}
{%- for m in messages %}
{%- if m.role == 'assistant' and m.tool_calls %}
{{- turn('bot', m.tool_calls | map(attribute='function') | list | tojson) }}
{%- else %}{{ turn('bot' if m.role == 'assistant' else m.role, m.content) }}{% endif %}{% endfor %}
{%- if tools and messages[-1].role == 'user' %}{{ 'Tools: ' + tools | tojson + '\n' }}{% endif %}
{%- if add_generation_prompt %}{{ '⟦BOT⟧ ' }}{% endif %}"""
"""Nobody's: what a first line says, and where the tools are, depends on the conversation's length."""
DROPS_THINKING = """{%- set last = namespace(at=-1) %}
{%- for m in messages if m.role == 'user' %}{% set last.at = loop.index0 %}{% endfor %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and m.reasoning_content and loop.index0 > last.at %}
{{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
"""As Qwen 3: earlier thinking is left out."""

OURS = {
    "chatml": CHATML,
    "zephyr": ZEPHYR,
    "llama-2": LLAMA_2,
    "mistral-1": MISTRAL_1,
    "mistral-7": MISTRAL_7,
    "deepseek-coder": DEEPSEEK_CODER,
    "yi": YI,
    "vicuna": VICUNA,
    "unseen": UNSEEN,
    "drops-thinking": DROPS_THINKING,
}
_CONTROL = re.compile(r"<[|/]?[\w▁ ]+[|]?>|<｜[^｜]+｜>|\[/?[A-Z_]{3,}\]|\[e~\[|⟨over⟩|</assistant>")


def installed() -> dict[str, str]:
    """Templates of public models that TRL brings, and llama.cpp's source where it is here."""
    import trl

    folders = [Path(trl.__file__).parent / "chat_templates"]
    folders += Path(CACHE).glob("llama.cpp-*/*/vendor/llama.cpp/models/templates")
    files = {file.stem: file for folder in folders for file in sorted(folder.glob("*.jinja"))}
    return {name: file.read_text("utf-8") for name, file in files.items()}


def save_base(folder: Path, template: str | dict[str, str]) -> Path:
    """Write the tiny base's tokenizer with this template, whose control tokens it has."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(TINY, local_files_only=True)
    text = template if isinstance(template, str) else "".join(template.values())
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(_CONTROL.findall(text)))})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
