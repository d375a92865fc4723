"""Ids word by word are the tokenizer's own for the whole text, and so is what is learned, whatever the text."""

import json
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers, trainers

from tuneline.core.paths import ROOT
from tuneline.stages.prepare.rendering import word_cache
from tuneline.stages.prepare.rendering.chat_templates import LOSS_BEGIN, LOSS_END, strip_marks
from tuneline.stages.prepare.rendering.renderer import token_spans
from tuneline.stages.prepare.rendering.word_cache import LLAMA_3_SPLIT, LLAMA_4_SPLIT, WordCache

TINY = (ROOT / "data/tiny/tokenizer.json").read_text("utf-8")
EOT, HEADER = "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"
HARD = [
    *[
        "don't",
        "I'LL",
        "'s",
        "L'ho",
        "1234",
        "3.14",
        "1 234",
        "日本語",
        "ひらがな",
        "🎉",
        "👩\u200d👩\u200d👧",
        "e\u0301",
        "\u0301",
    ],
    *["İ", "ǅ", "ß", "…", "!", "/", "//", "<", ">", '{"a": 1}', "word", "Two words", "end.\n\nThen", "\n    - item\n"],
    "```\n    x = 1\n```",
]
BLANK = [" ", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "\v", "\x1c", "\x85"]
BLANK += ["\u00a0", "\u2003", "\u2028", "\u3000", "\u200b"]
CONTROLS = [EOT, HEADER, "<|begin_of_text|>", "<|eom_id|>", "<|eot_id", "|>"]


def tokenizer(**changes: Any) -> Tokenizer:
    """The tiny base's, with some of its JSON replaced: keys are paths, their parts joined by two underscores."""
    told = json.loads(TINY)
    for path, value in changes.items():
        *way, key = path.split("__")
        inner = told
        for name in way:
            inner = inner[int(name) if name.isdigit() else name]
        inner[key] = value
    return Tokenizer.from_str(json.dumps(told))


def learning(split: str) -> Tokenizer:
    """One whose vocabulary has joined what stands beside each other in hard text, white space above all."""
    made, rng = tokenizer(**{SPLIT + "pattern": {"Regex": split}}), random.Random(0)
    texts = ["".join(rng.choices(HARD + BLANK + BLANK, k=12)) for _ in range(3000)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2500, min_frequency=2, show_progress=False, initial_alphabet=alphabet)
    special = [token for token in made.get_added_tokens_decoder().values()]
    made.train_from_iterator(texts, trainer)
    made.add_special_tokens(special)
    return made


SPLIT = "pre_tokenizer__pretokenizers__0__"
LIKE = {
    "tiny": tokenizer,
    "llama-3": lambda: learning(LLAMA_3_SPLIT),
    "llama-4": lambda: learning(LLAMA_4_SPLIT),
}


@cache
def made(name: str) -> tuple[Tokenizer, WordCache]:
    like = LIKE[name]()
    words = WordCache.for_tokenizer(like, {EOT, "<|start_header_id|>", "<|end_header_id|>"})
    assert words is not None
    return like, words


def by_words(name: str, marked: str) -> Any:
    return made(name)[1].tokenize(marked)


def whole(name: str, marked: str) -> Any:
    text, spans = strip_marks(marked)
    encoding = made(name)[0].encode(text, add_special_tokens=False)
    return encoding.ids, list(token_spans(encoding, spans))


piece = st.sampled_from(HARD + 2 * (BLANK + CONTROLS)) | st.text(max_size=3).filter(
    lambda t: not {LOSS_BEGIN, LOSS_END} & {*t}
)
text = st.lists(piece, max_size=12).map("".join)
start = st.builds("".join, st.tuples(st.sampled_from(["", EOT, HEADER, "\n"]), piece))


@pytest.mark.parametrize("name", LIKE)
@settings(max_examples=150)
@given(parts=st.lists(st.tuples(start | text, start | text, st.sampled_from(["", EOT, "x"])), max_size=3))
def test_whatever_is_learned_of_whatever_text(name: str, parts: list[tuple[str, str, str]]) -> None:
    marked = "".join(f"{before}{LOSS_BEGIN}{said}{end}{LOSS_END}" for before, said, end in parts)
    found = by_words(name, marked)
    if found is not None:
        assert (list(found[0]), found[1]) == whole(name, marked)


@pytest.mark.parametrize("name", LIKE)
@settings(max_examples=150)
@given(asked=text, said=text)
def test_an_answer_of_single_spaces_and_known_words_never_needs_the_tokenizer(name: str, asked: str, said: str) -> None:
    asked, said = " ".join(asked.split()), " ".join(said.split())
    marked = f"{asked}{EOT}{HEADER}{LOSS_BEGIN}{said}{EOT}{LOSS_END}"
    while (found := by_words(name, marked)) is None and made(name)[1]._new_words_left < 0:
        pass  # a few of its words are learned each time
    assert found is not None
    assert (list(found[0]), found[1]) == whole(name, marked)


@pytest.mark.parametrize("name", LIKE)
def test_any_character_beside_a_space(name: str) -> None:
    """Where Unicode's versions could differ: `a` and each character up to kana, then a space and a letter."""
    texts = [f"a{chr(code)} {chr(code)}b" for code in range(0x3100)]
    texts = [one for one in texts if not {LOSS_BEGIN, LOSS_END} & {*one}]
    together = made(name)[0].encode_batch(texts, add_special_tokens=False)
    for one, encoding in zip(texts, together, strict=True):
        found = by_words(name, one)
        assert found is None if one[1].isspace() else list(found[0]) == encoding.ids, one


OTHERS: dict[str, dict[str, Any]] = {
    "a normalizer": {"normalizer": {"type": "NFC"}},
    "another rule": {SPLIT + "pattern": {"Regex": r"\s+"}},
    "spaces removed": {SPLIT + "behavior": "Removed"},
    "a rule of its own": {"pre_tokenizer__pretokenizers__1__use_regex": True},
    "a space put first": {"pre_tokenizer__pretokenizers__1__add_prefix_space": True},
    "no rule": {"pre_tokenizer": None},
    "chance": {"model__dropout": 0.1},
    "a token that takes spaces": {"added_tokens__4__lstrip": True},
    "a token of two words": {"added_tokens__4__content": "<|eot id|>"},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_any_other_tokenizer_is_left_alone(kind: str) -> None:
    assert WordCache.for_tokenizer(tokenizer(**OTHERS[kind]), {EOT}) is None


def test_few_words_are_kept_and_no_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "MAX_WORDS", 3)
    few = WordCache.for_tokenizer(made("tiny")[0], set())
    assert few is not None
    for said in ("a b", "c d", "long" * 20, "d e", "a b"):
        found = few.tokenize(said)
        assert found is not None and list(found[0]) == whole("tiny", said)[0]
        assert len(few) <= 3
    assert max(map(len, few)) < 20


def test_a_text_of_new_words_is_left_to_the_tokenizer_until_they_are_known() -> None:
    fresh, said = WordCache.for_tokenizer(made("tiny")[0], set()), "one two three four five"
    assert fresh is not None
    assert [fresh.tokenize(said) is None for _ in range(4)] == [True, True, False, False]
