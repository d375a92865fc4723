"""Reads text that is a whole conversation as some template wrote it: ### Human, [INST], ChatML, Vicuna and others."""

import re
from dataclasses import dataclass
from typing import Any

ROLES = {
    "human": "user",
    "user": "user",
    "instruction": "user",
    "assistant": "assistant",
    "response": "assistant",
    "answer": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "ipython": "tool",
}


@dataclass(frozen=True)
class Style:
    """A way to write a conversation: what begins a turn (with the role in `role`), and what may end one."""

    name: str
    begin: re.Pattern[str]
    ends: tuple[str, ...] = ()
    mark: str = ""
    """Without this the text is not in this style; found much faster than the pattern."""


_ROLE = "(?P<role>system|user|assistant|tool|ipython)"
STYLES = (
    Style("ChatML", re.compile(rf"<\|im_start\|>\s*{_ROLE}\s*\n"), ("<|im_end|>", "<|endoftext|>"), "<|im_start|>"),
    Style(
        "Llama 3",
        re.compile(rf"<\|start_header_id\|>{_ROLE}<\|end_header_id\|>\s*"),
        ("<|eot_id|>", "<|end_of_text|>", "<|begin_of_text|>"),
        "<|start_header_id|>",
    ),
    Style(
        "Llama 4",
        re.compile(rf"<\|header_start\|>{_ROLE}<\|header_end\|>\s*"),
        ("<|eot|>", "<|begin_of_text|>"),
        "<|header_start|>",
    ),
    Style(
        "Gemma", re.compile(r"<start_of_turn>(?P<role>user|model)\s*\n"), ("<end_of_turn>", "<bos>"), "<start_of_turn>"
    ),
    Style("Zephyr", re.compile(rf"<\|{_ROLE}\|>\s*"), ("</s>", "<|end|>", "<|endoftext|>"), "<|user|>"),
    Style(
        "### Human",
        re.compile(r"\s*###\s*(?P<role>Human|User|Assistant|System)\s*:\s*"),
        ("</s>", "<|endoftext|>"),
        "###",
    ),
    Style(
        "Alpaca's template",
        re.compile(r"\s*###\s*(?P<role>Instruction|Response|System)\s*:?\s*\n\s*", re.I),
        ("</s>", "<|endoftext|>", "<|EOT|>"),
        "###",
    ),
    Style("Human:", re.compile(r"(?:\A|\n\n)\s*(?P<role>Human|Assistant):\s*"), (), "Human:"),
    Style("USER:", re.compile(r"(?:\A|(?<=[\s>]))(?P<role>USER|ASSISTANT):\s*"), ("</s>",), "USER:"),
)
_INST = re.compile(r"\s*(?:<s>)?\s*\[INST\]\s*(.*?)\s*\[/INST\]\s*(.*?)\s*(?:</s>|(?=\[INST\]|<s>)|\Z)", re.S)
_SYS = re.compile(r"<<SYS>>\s*(.*?)\s*<</SYS>>\s*", re.S)
_INPUT = re.compile(r"\n\s*###\s*Input\s*:?\s*\n", re.I)


def parse_conversation(text: str) -> tuple[str, list[dict[str, Any]]] | None:
    """Return (the name of the style, the turns) of a text that is one conversation; None of any other text."""
    if "[INST]" in text:
        turns = _parse_inst(text)
        return ("[INST]", turns) if turns else None
    for style in STYLES:
        if style.mark in text and (turns := _parse(text, style)):
            return style.name, turns
    return None


def _parse(text: str, style: Style) -> list[dict[str, Any]] | None:
    matches = list(style.begin.finditer(text))
    if len(matches) < 2:
        return None
    before = _without_ends(text[: matches[0].start()], style)
    turns = [{"role": "system", "content": before}] if before else []
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=True):
        content = _without_ends(text[match.end() : end], style)
        turns.append({"role": ROLES[match["role"].lower()], "content": _INPUT.sub("\n\n", content)})
    roles = [turn["role"] for turn in turns]
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        return None  # a prompt without its answer
    plain = style.mark in ("###", "Human:", "USER:")
    alternates = [role for role in roles if role != "system"] == ["user", "assistant"] * (len(roles) // 2)
    if before and plain and style.mark != "###" and not before.rstrip().endswith((".", "!", "?", ":")):
        return None
    return turns if {"user", "assistant"} <= set(roles) and (alternates or not plain) else None


def _without_ends(content: str, style: Style) -> str:
    for end in style.ends:
        content = content.replace(end, "")
    return content.replace("<s>", "").strip() if "</s>" in style.ends else content.strip()


def _parse_inst(text: str) -> list[dict[str, Any]] | None:
    if _INST.sub("", text).replace("</s>", "").replace("<s>", "").strip():
        return None
    turns: list[dict[str, Any]] = []
    for question, answer in _INST.findall(text):
        if system := _SYS.search(question):
            turns.append({"role": "system", "content": system[1]})
            question = _SYS.sub("", question)
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return turns if turns and all(turn["content"] for turn in turns) else None
