"""Secrets and personal data in text, by pattern and, where a number has one, by its check digits."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

SAFE_DOMAINS = ("example.com", "example.org", "example.net", "example.it", ".example", ".test", ".invalid")
"""Reserved for examples (RFC 2606)."""


@dataclass(frozen=True)
class Found:
    """One secret or piece of personal data in a text."""

    severity: Literal["secret", "personal_data"]
    kind: str
    start: int
    end: int
    masked: str
    """Its first characters, for a message that may be shown."""


SECRETS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "an API key": r"\b(?:sk|pk|rk)[-_](?:live_|test_|ant-|proj-|or-)?[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Slack token": r"\bxox[abposr]-[0-9A-Za-z-]{10,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in a URL": r"\b[a-z][a-z0-9+]{2,}://[^\s:/@]+:[^\s:/@]{4,}@",
}
PERSONAL = {
    "an email address": r"\b[^\W_][\w.%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b",
    "a bank account (IBAN)": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    "a card number": r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.])",
    "a phone number": r"(?<![\w+])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,12}(?!\d)",
    "an Italian tax code": r"\b[A-Z]{6}\d{2}[ABCDEHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b",
    "an Indonesian identity number": r"(?<!\d)[1-9]\d{5}(?:[0-6]\d|7[01])(?:0[1-9]|1[0-2])\d{2}\d{4}(?!\d)",
}
_SIGNS = {
    "@": ("@",),
    "/": ("://",),
    "J": ("eyJ",),
    "I": ("AKIA", "ASIA", "AIza"),
    "-": ("-----BEGIN", "xox", "sk-", "pk-", "rk-"),
    "_": ("sk_", "pk_", "rk_"),
}
"""What secrets and addresses hold, by a character in it that most text lacks."""
_DIGITS = b"0123456789\xd9\xdb\xdf\xe0\xe1\xea\xef\xf0"
"""The first byte of any decimal digit in UTF-8."""
_NUMBERS = re.compile(r"\d{4}|\d[ -]\d|[A-Z]{2}\d{2}|\+\d|gh[pousr]_|hf_|github_pat_")


def holds_byte(text: str, some: bytes) -> bool:
    """Whether any of these bytes is in the text's UTF-8, ten times faster than a pattern can say."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw.translate(None, some)) < len(raw)


def _may_hold(text: str) -> bool:
    """Whether to look closer; most text holds nothing, and ends here."""
    if any(sign in text for character, signs in _SIGNS.items() if character in text for sign in signs):
        return True
    return holds_byte(text, _DIGITS) and bool(_NUMBERS.search(text))


def found_in(text: str) -> list[Found]:
    """All findings, in order, without overlaps."""
    if not _may_hold(text):
        return []
    found: list[Found] = []
    for severity, kind, pattern, proof in _patterns():
        for match in pattern.finditer(text):
            if proof(match[0]) and not any(f.start < match.end() and match.start() < f.end for f in found):
                found.append(Found(severity, kind, match.start(), match.end(), f"{match[0][:4]}…"))
    return sorted(found, key=lambda f: f.start)


def first_of_each(text: str) -> dict[str, Found]:
    """The first finding of each kind."""
    first: dict[str, Found] = {}
    for found in found_in(text):
        first.setdefault(found.kind, found)
    return first


def masked(text: str) -> str:
    """The text with each finding replaced by its kind in brackets."""
    for found in reversed(found_in(text)):
        text = f"{text[: found.start]}[{found.kind.split(' ', 1)[1]}]{text[found.end :]}"
    return text


@cache
def _patterns() -> list[tuple[Any, str, re.Pattern[str], Callable[[str], bool]]]:
    proofs: dict[str, Callable[[str], bool]] = {
        "an email address": lambda text: not text.lower().endswith(SAFE_DOMAINS),
        "a bank account (IBAN)": is_iban,
        "a card number": is_card,
        "an API key": lambda text: any(c.isdigit() for c in text) and any(c.isalpha() for c in text[3:]),
        "an Indonesian identity number": _has_a_day,
    }
    listed = [("secret", kind, text) for kind, text in SECRETS.items()]
    listed += [("personal_data", kind, text) for kind, text in PERSONAL.items()]
    return [(severity, kind, re.compile(text), proofs.get(kind, bool)) for severity, kind, text in listed]


def is_iban(text: str) -> bool:
    """ISO 13616: the first four characters moved to the end, letters as numbers, modulo 97 is 1."""
    plain = text.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """ISO/IEC 7812: Luhn's check digit, and a first digit that issuers of cards have."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return digits[0] in (3, 4, 5, 6) and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def _has_a_day(text: str) -> bool:
    """Digits 7 and 8 are the day of birth, 40 more for women."""
    return 1 <= int(text[6:8]) <= 31 or 41 <= int(text[6:8]) <= 71
