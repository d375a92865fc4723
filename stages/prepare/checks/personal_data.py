"""Finds secrets and personal data in text by regular expressions, and by check digits where a number has them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

QUOTED_AROUND = 40
"""Characters shown before and after a match."""
SAFE_DOMAINS = ("example.com", "example.org", "example.net", "example.it", ".example", ".test", ".invalid")
"""Domains reserved for examples (RFC 2606)."""


@dataclass(frozen=True)
class SensitiveMatch:
    """One secret or piece of personal data in a text, at characters `start` to `end`."""

    severity: Literal["secret", "personal_data"]
    kind: str
    start: int
    end: int
    preview: str
    """Its first characters, which a message may show."""


# Searching is linear in the text: whatever can repeat is bounded, or begins only where a run of its characters does.
SECRETS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "an API key": r"\b(?:sk|pk|rk)[-_](?:live_|test_|ant-|proj-|or-)?[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Slack token": r"\bxox[abposr]-[0-9A-Za-z-]{10,}",
    "a JSON web token": r"(?<![\w-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in a URL": r"\b[a-z][a-z0-9+]{2,15}://[^\s:/@]+:[^\s:/@]{4,}@",
}
PERSONAL = {
    "an email address": r"\b[^\W_][\w.%+-]{0,63}@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b",
    "a bank account (IBAN)": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    "a card number": r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.])",
    "a phone number": r"(?<![\w+])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,12}(?!\d)",
    "an Italian tax code": r"\b[A-Z]{6}\d{2}[ABCDEHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b",
    "an Indonesian identity number": r"(?<!\d)[1-9]\d{5}(?:[0-6]\d|7[01])(?:0[1-9]|1[0-2])\d{2}\d{4}(?!\d)",
}
_MARKERS = {
    "@": ("@",),
    "/": ("://",),
    "J": ("eyJ",),
    "I": ("AKIA", "ASIA", "AIza"),
    "-": ("-----BEGIN", "xox", "sk-", "pk-", "rk-"),
    "_": ("sk_", "pk_", "rk_"),
}
"""Substrings of secrets and addresses, by a character of theirs that most text does not contain."""
_DIGITS = b"0123456789\xd9\xdb\xdf\xe0\xe1\xea\xef\xf0"
"""The first bytes of decimal digits in UTF-8."""
_NUMBERS = re.compile(r"\d{4}|\d[ -]\d|[A-Z]{2}\d{2}|\+\d|gh[pousr]_|hf_|github_pat_")


def contains_any_byte(text: str, candidates: bytes) -> bool:
    """Return whether the text's UTF-8 contains any of these bytes; ten times faster than a regular expression."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw.translate(None, candidates)) < len(raw)


def _may_match(text: str) -> bool:
    """Return whether any pattern could match. A cheap filter that most text does not pass."""
    if any(marker in text for character, markers in _MARKERS.items() if character in text for marker in markers):
        return True
    return contains_any_byte(text, _DIGITS) and bool(_NUMBERS.search(text))


def find_sensitive(text: str) -> list[SensitiveMatch]:
    """Return all matches in the order of the text, without overlaps."""
    if not _may_match(text):
        return []
    matches: list[SensitiveMatch] = []
    taken = bytearray(len(text))
    for severity, kind, pattern, is_valid in _patterns():
        for match in pattern.finditer(text):
            start, end = match.span()
            if is_valid(match[0]) and taken.find(1, start, end) < 0:
                matches.append(SensitiveMatch(severity, kind, start, end, f"{match[0][:4]}…"))
                taken[start:end] = b"\x01" * (end - start)
    return sorted(matches, key=lambda match: match.start)


def first_of_each_kind(text: str) -> dict[str, SensitiveMatch]:
    """Return the first match of each kind, by kind."""
    first: dict[str, SensitiveMatch] = {}
    for match in find_sensitive(text):
        first.setdefault(match.kind, match)
    return first


def quote_match(text: str, match: SensitiveMatch) -> str:
    """Return a match with the words around it, on one line; secrets are masked, whichever match it is."""
    position, end = max(0, match.start - QUOTED_AROUND), min(len(text), match.end + QUOTED_AROUND)
    pieces = ["…"] if position else []
    for secret in find_sensitive(text):
        if secret.severity == "secret" and secret.start < end and secret.end > position:
            pieces += [text[position : max(position, secret.start)], secret.preview]
            position = secret.end
    pieces += [text[position:end], "…"] if end < len(text) else [text[position:]]
    return " ".join("".join(pieces).split())


def quote_start(text: str) -> str:
    """Return the beginning of a text on one line, with secrets masked."""
    return quote_match(text, SensitiveMatch("personal_data", "", 0, min(len(text), QUOTED_AROUND), ""))


def mask_sensitive(text: str) -> str:
    """Return the text with each match replaced by its kind in brackets."""
    return replace_with_kinds(text, find_sensitive(text))


def replace_with_kinds(text: str, matches: Sequence[SensitiveMatch]) -> str:
    """Return the text with each match, in the order of the text, replaced by its kind in brackets."""
    pieces, end = [], 0
    for match in matches:
        pieces += [text[end : match.start], f"[{match.kind.split(' ', 1)[1]}]"]
        end = match.end
    return "".join([*pieces, text[end:]])


@cache
def _patterns() -> list[tuple[Any, str, re.Pattern[str], Callable[[str], bool]]]:
    """Return (severity, kind, pattern, a further check of what the pattern matches)."""
    checks: dict[str, Callable[[str], bool]] = {
        "an email address": lambda text: not text.lower().endswith(SAFE_DOMAINS),
        "a bank account (IBAN)": is_iban,
        "a card number": is_card,
        "an API key": lambda text: any(c.isdigit() for c in text) and any(c.isalpha() for c in text[3:]),
        "an Indonesian identity number": _has_birth_day,
    }
    patterns = [("secret", kind, pattern) for kind, pattern in SECRETS.items()]
    patterns += [("personal_data", kind, pattern) for kind, pattern in PERSONAL.items()]
    return [(severity, kind, re.compile(pattern), checks.get(kind, bool)) for severity, kind, pattern in patterns]


def is_iban(text: str) -> bool:
    """Return whether the check digits are right.

    ISO 13616: the first four characters are moved to the end and letters become numbers; modulo 97 the result is 1.
    """
    compact = text.replace(" ", "")
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """Return whether the number has a valid check digit (Luhn) and the first digit of a card issuer (ISO/IEC 7812)."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return digits[0] in (3, 4, 5, 6) and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def _has_birth_day(text: str) -> bool:
    """Return whether digits 7 and 8 are a day of birth, to which 40 is added for women."""
    return 1 <= int(text[6:8]) <= 31 or 41 <= int(text[6:8]) <= 71
