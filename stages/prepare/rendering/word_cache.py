"""Token ids word by word, each word tokenized once: what the tokenizer gives for the whole text, faster.

A space after anything but white space begins a piece of its own under the split rules of Llama 3 and 4, whatever
follows it: elsewhere than first in a piece they take white space only after white space. They look ahead only for the
end of white space, which the end of a text is too. So a text may be cut before such a space and at control tokens, and
its ids are those of its parts. Anything else is left to the tokenizer.
"""

import json
import re
from array import array
from typing import Any

from tuneline.stages.prepare.rendering.chat_templates import BEGIN, END

LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_4_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MOST_WORDS, LONGEST_WORD = 50_000, 40
"""Kept at a time, and characters of one: about 15 MB."""
NEW_WORDS = 2
"""Tokenized alone in any text, and one more in sixteen; a text with more of them is tokenized faster as one."""
Tokens = tuple["array[int]", list[tuple[int, int]]]
"""Ids of a text, and (first, end) of each learned part of it, in tokens."""
_CONTROL = re.compile(r"<[^<>\s]+>")
"""Tokens of this form cannot overlap."""


class Words(dict[str, bytes]):
    """Ids by word: with a space before it, but for one that begins a part (after BEGIN); END stands after the last."""

    @classmethod
    def of(cls, tokenizer: Any, controls: set[str]) -> "Words | None":
        """Those of a tokenizer (of `tokenizers`), if word by word is exact; texts are cut at `controls` too."""
        rule = json.loads(tokenizer.pre_tokenizer.__getstate__()) if tokenizer.pre_tokenizer else {}
        for step in rule.get("pretokenizers", ()):
            step.pop("trim_offsets", None)
        added = tokenizer.get_added_tokens_decoder()
        exact = (
            rule in (_rule(LLAMA_3_SPLIT), _rule(LLAMA_4_SPLIT))
            and tokenizer.normalizer is tokenizer.truncation is tokenizer.padding is None
            and type(tokenizer.model).__name__ == "BPE"
            and not tokenizer.model.dropout
            and all(_is_plain(token) for token in added.values())
        )
        return cls(tokenizer, {token.content: number for number, token in added.items()}, controls) if exact else None

    def __init__(self, tokenizer: Any, added: dict[str, int], controls: set[str]) -> None:
        super().__init__()
        self._encode = tokenizer.encode
        self._controls = {token: _bytes([added[token]]) for token in added if token in controls}
        self._cut = re.compile(f"({'|'.join(map(re.escape, [*self._controls, BEGIN, END]))})")

    def tokens(self, marked: str) -> Tokens | None:
        """Of a text with BEGIN and END around what is learned; None if it is to be tokenized whole.

        That is: a space in it begins no piece, too many of its words are new, or a learned part may have its edge
        within a token. It has not if it begins with no white space, after a control token and newlines at most, and
        ends with a control token.
        """
        try:
            return self._tokens(marked)
        except _Whole:
            return None

    def _tokens(self, marked: str) -> Tokens:
        ids, spans, begin, last = bytearray(), [], 0, ""
        parts = self._cut.split(marked)
        for text, cut in zip(parts[::2], [*parts[1::2], ""], strict=True):
            if text:
                if last == BEGIN and text[0].isspace():
                    raise _Whole
                ids += self._ids(text)
            if cut == BEGIN:
                if text.strip("\r\n"):
                    raise _Whole
                begin = len(ids) // 4
            elif cut == END:
                if text or last not in self._controls:
                    raise _Whole
                spans.append((begin, len(ids) // 4))
            elif cut:
                ids += self._controls[cut]
            last = cut
        return array("I", bytes(ids)), spans

    def _ids(self, text: str) -> bytes:
        words = text.split(" ")
        self._room = NEW_WORDS + len(words) // 16
        words[0] = BEGIN + words[0]
        words[-1] += END
        return b"".join(map(self.__getitem__, words))

    def __missing__(self, word: str) -> bytes:
        text = word.removesuffix(END)
        self._room -= 1
        if self._room < 0 or (text == word and (not word or word[-1].isspace())):
            raise _Whole
        text = text[1:] if text[:1] == BEGIN else f" {text}"
        ids = _bytes(self._encode(text, add_special_tokens=False).ids)
        if len(word) <= LONGEST_WORD:
            if len(self) == MOST_WORDS:
                self.clear()
            self[word] = ids
        return ids


class _Whole(Exception):
    """The text is to be tokenized as one."""


def _bytes(ids: list[int]) -> bytes:
    return array("I", ids).tobytes()


def _rule(split: str) -> dict[str, Any]:
    """As `tokenizers` writes a pre-tokenizer that splits by this rule alone; `trim_offsets` changes no id."""
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    }


def _is_plain(token: Any) -> bool:
    ways = token.single_word or token.lstrip or token.rstrip or token.normalized
    return not ways and _CONTROL.fullmatch(token.content) is not None
