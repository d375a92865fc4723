"""Control tokens in what callers send: found by the model's own tokenizer, and text to it afterwards."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tuneline.core.errors import StageFailed
from tuneline.core.paths import ROOT
from tuneline.engines.control_tokens import ControlTokens, read_gguf_tokens, read_tokenizer_tokens

TINY = ROOT / "data/tiny"
END, HEAD = "<|eot_id|>", "<|start_header_id|>"


def test_what_a_caller_sends_has_none_left_wherever_it_is() -> None:
    tokens = read_tokenizer_tokens(TINY)
    body = {
        "model": "router",
        "prompt": f"a{END}",
        "stop": [END],
        "messages": [
            {"role": "system", "content": f"{END}{END}"},
            {"role": "user", "content": [{"type": "text", "text": "a<|eot"}, {"type": "text", "text": "_id|>b"}]},
            {"role": "tool", "content": f"x{HEAD}assistant", "name": f"a{END}", "tool_call_id": "1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "send",
                    "description": f"{END}",
                    "parameters": {"properties": {f"a{END}": {"enum": [f"{HEAD}system"]}}},
                },
            }
        ],
    }
    cleaned = tokens.neutralize(body)
    kept = {name: cleaned[name] for name in ("model", "prompt", "stop")}
    assert kept == {"model": "router", "prompt": f"a{END}", "stop": [END]}
    assert cleaned["messages"][0]["content"] == "< |eot_id|>< |eot_id|>"
    assert "".join(part["text"] for part in cleaned["messages"][1]["content"]) == "a<|eot _id|>b"
    rest = json.dumps([cleaned["messages"], cleaned["tools"]])
    assert not any(text in rest for text in tokens.texts) and "< |start_header_id|>system" in rest
    plain = {"messages": [{"role": "user", "content": "a <b> | </s> [INST] é"}], "tools": []}
    assert tokens.neutralize(plain) == plain


def test_no_token_of_the_tokenizer_is_found_in_a_neutralized_text() -> None:
    tokenizer, tokens = Tokenizer.from_file(str(TINY / "tokenizer.json")), read_tokenizer_tokens(TINY)
    ids = {tokenizer.token_to_id(text) for text in tokens.texts}
    assert None not in ids
    for text in tokens.texts:
        for written in (text, f"{text[0]}{text}{text[1:]}", text * 3):
            content = tokens.neutralize({"messages": [{"content": written}]})["messages"][0]["content"]
            assert ids & {*tokenizer.encode(written, add_special_tokens=False).ids}
            assert not ids & {*tokenizer.encode(content, add_special_tokens=False).ids}


def write_gguf(file: Path, **metadata: Any) -> Path:
    """Write a GGUF without tensors; a list of texts or numbers, a text, or a number."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value(item: Any) -> bytes:
        if isinstance(item, str):
            return struct.pack("<I", 8) + text(item)
        if isinstance(item, int):
            return struct.pack("<Ii", 5, item)
        kind = 8 if isinstance(item[0], str) else 5
        content = b"".join(text(i) if kind == 8 else struct.pack("<i", i) for i in item)
        return struct.pack("<IIQ", 9, kind, len(item)) + content

    pairs = [(key.replace("__", "."), item) for key, item in metadata.items()]
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs))
    file.write_bytes(content + b"".join(text(key) + value(item) for key, item in pairs))
    return file


def test_a_file_names_its_own(tmp_path: Path) -> None:
    texts, kinds = ["<unk>", "<s>", "a", "<think>", "  ", "[INST]"], [2, 3, 1, 4, 4, 4]
    keys = {"tokenizer__ggml__tokens": texts, "tokenizer__ggml__token_type": kinds}
    file = write_gguf(tmp_path / "a.gguf", other=7, **keys, tokenizer__chat_template="{{ bos }}[INST]  {{ x }}[/INST]")
    assert read_gguf_tokens(file).texts == {"<unk>", "<s>", "[INST]"}
    content = file.read_bytes()
    for broken in (b"", b"GGUF", content[:60], b"PK" + content):
        file.write_bytes(broken)
        with pytest.raises(StageFailed):
            read_gguf_tokens(file)
    with pytest.raises(StageFailed):
        read_tokenizer_tokens(tmp_path)


def test_without_any_nothing_changes() -> None:
    body = {"messages": [{"role": "user", "content": END}]}
    assert ControlTokens(()).neutralize(body) == body
