"""Whether a text names the facts and the price that were asked for."""

import re
from collections.abc import Sequence
from decimal import Decimal

INVENTED, MISSING = "invented price", "missing price"

CURRENCIES = {
    **dict.fromkeys(("€", "eur", "euro", "euros"), "EUR"),
    **dict.fromkeys(("$", "usd", "dollar", "dollars"), "USD"),
    **dict.fromkeys(("rp", "idr", "rupiah"), "IDR"),
    **dict.fromkeys(("£", "gbp", "pounds"), "GBP"),
}
_UNIT = "|".join(re.escape(word) for word in sorted(CURRENCIES, key=len, reverse=True))
_AMOUNT = re.compile(
    rf"(?:(?<!\w)(?P<before>{_UNIT})\.?\s*)?(?<![\w.,])(?P<number>\d(?:[\d.,'\s]*\d)?)(?!\w)(?:\s*(?P<after>{_UNIT})(?!\w))?",
    re.IGNORECASE,
)
Amount = tuple[Decimal, str]
"""A number and the code of its currency, which is empty for a bare number."""


def fact_fault(prompt: str, text: str, says: Sequence[str], never: Sequence[str], price: str | None) -> str | None:
    """Return what is wrong with the facts in a text, or None. A fact may have alternatives: `Paris|Parigi`."""
    text_words = f" {' '.join(words(text))} "
    if not _adds_words(prompt, text):
        return MISSING if price else "no answer"
    if missing := [fact for fact in says if not any(_names(text_words, name) for name in fact.split("|"))]:
        return f"not named: {', '.join(missing)}"
    if forbidden := [fact for fact in never if _names(text_words, fact)]:
        return f"named: {', '.join(forbidden)}"
    return price_fault(prompt, text, price) if price else None


def _adds_words(prompt: str, text: str) -> bool:
    """Return whether a text has a word that the prompt has not; an empty text or an echo is no answer."""
    prompt_words = words(prompt)
    return any(word not in prompt_words for word in words(text))


def _names(text_words: str, fact: str) -> bool:
    return f" {' '.join(words(fact))} " in text_words


def price_fault(prompt: str, text: str, price: str) -> str | None:
    """Return `MISSING` if the text has no price, `INVENTED` if it has a wrong one; the prompt's own do not count."""
    expected, prompt_amounts = amounts(price)[0], amounts(prompt)
    stated = [amount for amount in amounts(text) if amount not in prompt_amounts]
    if with_currency := [amount for amount in stated if amount[1]]:
        return None if all(amount == expected for amount in with_currency) else INVENTED
    if not stated:
        return MISSING
    return None if all(number == expected[0] for number, _ in stated) else INVENTED


def amounts(text: str) -> list[Amount]:
    """Return every amount in a text; `2,500`, `2.500` and `2 500` are the same."""
    parsed = []
    for match in _AMOUNT.finditer(text):
        unit = match["before"] or match["after"] or ""
        parsed.append((_parse_number(match["number"]), CURRENCIES.get(unit.lower(), "")))
    return parsed


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def _parse_number(text: str) -> Decimal:
    digits = re.sub(r"[\s']", "", text)
    units, cents = (digits[:-3], digits[-2:]) if re.search(r"[.,]\d\d$", digits) else (digits, "00")
    return Decimal(f"{re.sub('[.,]', '', units)}.{cents}")
