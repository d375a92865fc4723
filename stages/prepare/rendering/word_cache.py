"""Tokenizes text word by word and caches each word's ids, which is faster than the tokenizer and gives the same ids.

Under the split rules of Llama 3 and 4 a space that follows anything but white space begins a new piece, whatever comes
after it: inside a piece the rules allow white space only after white space. Their only look-ahead is for the end of
white space, and the end of a text counts as one. So a text can be cut before such a space and at control tokens, and
its ids are those of its parts. Any other text is left to the tokenizer.
"""

import json
import re
from array import array
from typing import Any

from tuneline.stages.prepare.rendering.chat_templates import LOSS_BEGIN, LOSS_END

LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_4_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_WORDS, MAX_WORD_CHARACTERS = 50_000, 40
"""Words in the cache, and characters of a cached word: about 15 MB."""
MAX_NEW_WORDS = 2
"""Words of a text, plus one in sixteen, that may be missing from the cache. With more of them it is faster to tokenize
the text as a whole."""
TokenizedText = tuple["array[int]", list[tuple[int, int]]]
"""Ids of a text, and (first, end) of each part that is in the loss, in tokens."""
_CONTROL = re.compile(r"<[^<>\s]+>")
"""Control tokens of this form cannot overlap."""


class WordCache(dict[str, bytes]):
    """Maps words to their ids as bytes.

    A word is tokenized with a space before it, unless its key begins with LOSS_BEGIN: then it begins a part of a text.
    The key of a part's last word ends with LOSS_END.
    """

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, controls: set[str]) -> "WordCache | None":
        """Return a cache for a tokenizer (of `tokenizers`), or None if tokenizing word by word would not be exact.

        Texts are also cut at the control tokens `controls`.
        """
        state = json.loads(tokenizer.pre_tokenizer.__getstate__()) if tokenizer.pre_tokenizer else {}
        for step in state.get("pretokenizers", ()):
            step.pop("trim_offsets", None)
        added = tokenizer.get_added_tokens_decoder()
        exact = (
            state in (_split_state(LLAMA_3_SPLIT), _split_state(LLAMA_4_SPLIT))
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
        self._cut = re.compile(f"({'|'.join(map(re.escape, [*self._controls, LOSS_BEGIN, LOSS_END]))})")

    def tokenize(self, marked: str) -> TokenizedText | None:
        """Return a text with marks around its parts in the loss tokenized, or None if it must be tokenized as a whole.

        It must if a space in it begins no piece, if too many of its words are new, or if a part in the loss may begin
        or end within a token. Such a part does not if it begins without white space, right after a control token or
        newlines (and not with `/` after words and newlines: Llama 4's rule joins those), and ends with a control token.
        """
        try:
            return self._tokenize(marked)
        except _NotByWord:
            return None

    def _tokenize(self, marked: str) -> TokenizedText:
        ids, spans, begin, last, after_words = bytearray(), [], 0, "", False
        parts = self._cut.split(marked)
        for text, cut in zip(parts[::2], [*parts[1::2], ""], strict=True):
            if text:
                if last == LOSS_BEGIN and (text[0].isspace() or (text[0] == "/" and after_words)):
                    raise _NotByWord
                ids += self._ids(text)
            if cut == LOSS_BEGIN:
                if text and text[-1] not in "\r\n":
                    raise _NotByWord
                after_words = bool(text.strip("\r\n"))
                begin = len(ids) // 4
            elif cut == LOSS_END:
                if text or last not in self._controls:
                    raise _NotByWord
                spans.append((begin, len(ids) // 4))
            elif cut:
                ids += self._controls[cut]
            last = cut
        return array("I", bytes(ids)), spans

    def _ids(self, text: str) -> bytes:
        words = text.split(" ")
        self._new_words_left = MAX_NEW_WORDS + len(words) // 16
        words[0] = LOSS_BEGIN + words[0]
        words[-1] += LOSS_END
        return b"".join(map(self.__getitem__, words))

    def __missing__(self, word: str) -> bytes:
        text = word.removesuffix(LOSS_END)
        self._new_words_left -= 1
        if self._new_words_left < 0 or (text == word and (not word or word[-1].isspace())):
            raise _NotByWord
        text = text[1:] if text[:1] == LOSS_BEGIN else f" {text}"
        ids = _bytes(self._encode(text, add_special_tokens=False).ids)
        if len(word) <= MAX_WORD_CHARACTERS:
            if len(self) == MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


class _NotByWord(Exception):
    """The text must be tokenized as a whole."""


def _bytes(ids: list[int]) -> bytes:
    return array("I", ids).tobytes()


def _split_state(split: str) -> dict[str, Any]:
    """Return the state of a pre-tokenizer of `tokenizers` that splits by this pattern alone.

    It leaves out `trim_offsets`, which changes no id.
    """
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    }


def _is_plain(token: Any) -> bool:
    has_options = token.single_word or token.lstrip or token.rstrip or token.normalized
    return not has_options and _CONTROL.fullmatch(token.content) is not None
