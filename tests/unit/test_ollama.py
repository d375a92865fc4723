"""Modelfiles: every chat template we ship, in Ollama's language, or the reason why not."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.public_templates import OURS, installed, save_base
from tuneline.core.paths import ROOT
from tuneline.stages.convert.ollama.go_template import render_go_template
from tuneline.stages.convert.ollama.modelfile import Modelfile, make_modelfile, parse_modelfile
from tuneline.stages.prepare.rendering.chat_templates import TEMPLATES_FOLDER
from tuneline.stages.prepare.rendering.template_choice import FRAMES_WITHOUT_TOOLS, add_hermes_tools

TINY = ROOT / "data/tiny"
SHIPPED = {file.stem: file.read_text() for file in TEMPLATES_FOLDER.glob("*.jinja") if file.stem != "hermes"}
SHIPPED |= {name: add_hermes_tools(SHIPPED[name]) for name in FRAMES_WITHOUT_TOOLS}
CONTENTS = ('Grüße\n{{ .System }} """ \\n', "two  words", "3 <x> & y", "4 😀", "five\n\nlines", "6")
ROLES = ("u", "uau", "uauau", "su", "suau", "suauau")
NAMES = {"s": "system", "u": "user", "a": "assistant"}


def load_base(folder: Path, template: str) -> Any:
    from transformers import AutoTokenizer

    save_base(folder, template)
    shutil.copy(TINY / "config.json", folder)
    return AutoTokenizer.from_pretrained(folder)


def conversations(modelfile: Modelfile) -> list[list[dict[str, str]]]:
    takes_system = not any("no system message" in comment for comment in modelfile.comments)
    return [
        [{"role": NAMES[role], "content": content} for role, content in zip(roles, CONTENTS, strict=False)]
        for roles in ROLES
        if takes_system or roles[0] != "s"
    ]


def prompt(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """What the model learned, less the first token, which Ollama puts before it."""
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text.removeprefix(tokenizer.bos_token)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_template_we_ship_has_a_modelfile(name: str, tmp_path: Path) -> None:
    tokenizer = load_base(tmp_path / "base", SHIPPED[name])
    modelfile = make_modelfile(tokenizer, calls_tools=True)
    read = parse_modelfile(modelfile.write("m.gguf"))
    assert read["FROM"] == ["./m.gguf"] and read["PARAMETER stop"] == list(modelfile.stops) != []
    if name == "llama-3.2":
        assert "TEMPLATE" not in read and read["REQUIRES"] == ["0.30.0"] and "today's date" in modelfile.comments[0]
        return
    assert "REQUIRES" not in read and "0.30.0 and later render them" in modelfile.comments[-1]
    for messages in conversations(modelfile):
        assert render_go_template(read["TEMPLATE"][0], messages) == prompt(tokenizer, messages)


def test_prose_is_sampled_as_its_base_is_and_calls_at_temperature_0(tmp_path: Path) -> None:
    tokenizer = load_base(tmp_path, SHIPPED["tiny"])
    config = {"eos_token_id": 2, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    prose, calls = (make_modelfile(tokenizer, calls_tools=tools).parameters for tools in (False, True))
    assert prose == {"num_ctx": 2048, "repeat_penalty": 1, "temperature": 0.6, "top_p": 0.9}
    assert calls == {"num_ctx": 2048, "repeat_penalty": 1, "temperature": 0}
    (tmp_path / "generation_config.json").unlink()
    assert "temperature" not in make_modelfile(tokenizer, calls_tools=False).parameters


def test_stop_tokens_are_written_as_they_are(tmp_path: Path) -> None:
    stops = ["<|eot_id|>", "<｜end▁of▁sentence｜>", "a\\n", 'say "so"']
    modelfile = Modelfile(template="x", comments=(), parameters={}, stops=stops)
    text = modelfile.write("m.gguf")
    assert 'PARAMETER stop "<｜end▁of▁sentence｜>"\n' in text and 'PARAMETER stop """say "so""""\n' in text
    assert parse_modelfile(text)["PARAMETER stop"] == stops


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}[{{ loop.index }}] {{ m.content }}{% endfor %}", "more than a text around each turn"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}", "more than a text"),
        ("{{ raise_exception('no') }}", "it refuses a plain conversation: no"),
        ("{% for m in messages %}{{ m.content }}{{ '{{ x }}' }}{% endfor %}", "which a Modelfile has for itself"),
        ("{% for m in messages %}{{ strftime_now('%Y') }}{{ m.content }}{% endfor %}", "today's date"),
    ],
    ids=["counted", "changed", "refusing", "Go in it", "dated"],
)
def test_a_template_that_go_cannot_write_is_left_to_ollama_with_the_reason(
    template: str, reason: str, tmp_path: Path
) -> None:
    modelfile = make_modelfile(load_base(tmp_path, template), calls_tools=False)
    assert modelfile.template is None and reason in modelfile.write("m.gguf").splitlines()[0]


@pytest.mark.parametrize("text", ["FROM ./a\nTEMPLATE x", "FROM ./a\nSAY hello\n", 'FROM ./a\nTEMPLATE """x\n'])
def test_what_is_no_modelfile_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse_modelfile(text)


@pytest.mark.parametrize(
    "template", ["{{ end }}", "{{ if .System }}x", "{{ range .Messages }}x", "{{ printf .System }}"]
)
def test_what_is_no_template_of_ours_is_refused(template: str) -> None:
    with pytest.raises(ValueError):
        render_go_template(template, [])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("go"), reason="needs Go on PATH")
def test_go_renders_what_the_models_learned(tmp_path: Path) -> None:
    items: list[str] = []
    expected: list[str] = []
    templates = {**SHIPPED, **{f"public {name}": text for name, text in (OURS | installed()).items()}}
    for number, text in enumerate(templates.values()):
        tokenizer = load_base(tmp_path / str(number), text)
        modelfile = make_modelfile(tokenizer, calls_tools=False)
        for messages in conversations(modelfile) if modelfile.template else ():
            items.append(json.dumps({"template": modelfile.template, "messages": messages}))
            expected.append(prompt(tokenizer, messages))
    command = ["go", "run", str(ROOT / "tests/clients/ollama_template.go")]
    rendered = subprocess.run(command, input="\n".join(items), capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in rendered.stdout.splitlines()] == expected
    assert len(templates) >= 40 and len(items) > 4 * len(templates)
