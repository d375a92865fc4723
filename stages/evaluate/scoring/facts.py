"""Whether an answer in words is right: facts it must and must not name, a price; and what is wrong with it."""

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
"""A number and its currency's code, or nothing for a bare number."""


def answers(prompt: str, text: str) -> bool:
    """Whether a text says something that the prompt does not: nothing, or the prompt again, is no answer."""
    asked = words(prompt)
    return any(word not in asked for word in words(text))


def fault_of(prompt: str, text: str, says: Sequence[str], never: Sequence[str], price: str | None) -> str | None:
    """What is wrong with an answer in words; None if nothing is. `says` may have alternatives: `Paris|Parigi`."""
    said = f" {' '.join(words(text))} "
    if not answers(prompt, text):
        return MISSING if price else "no answer"
    if missing := [fact for fact in says if not any(_stands(one, said) for one in fact.split("|"))]:
        return f"not named: {', '.join(missing)}"
    if named := [fact for fact in never if _stands(fact, said)]:
        return f"named: {', '.join(named)}"
    return price_fault(prompt, text, price) if price else None


def _stands(fact: str, said: str) -> bool:
    return f" {' '.join(words(fact))} " in said


def price_fault(prompt: str, text: str, price: str) -> str | None:
    """`MISSING` if no price is told, `INVENTED` if one that is neither the right one nor the prompt's own."""
    right, asked = amounts(price)[0], amounts(prompt)
    told = [amount for amount in amounts(text) if amount not in asked]
    if priced := [amount for amount in told if amount[1]]:
        return None if all(amount == right for amount in priced) else INVENTED
    if not told:
        return MISSING
    return None if all(number == right[0] for number, _ in told) else INVENTED


def amounts(text: str) -> list[Amount]:
    """Every amount in a text, `2,500`, `2.500` and `2 500` being the same."""
    found = []
    for match in _AMOUNT.finditer(text):
        unit = match["before"] or match["after"] or ""
        found.append((_number(match["number"]), CURRENCIES.get(unit.lower(), "")))
    return found


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return re.findall(r"\w+", text.lower())


def _number(written: str) -> Decimal:
    digits = re.sub(r"[\s']", "", written)
    whole, cents = (digits[:-3], digits[-2:]) if re.search(r"[.,]\d\d$", digits) else (digits, "00")
    return Decimal(f"{re.sub('[.,]', '', whole)}.{cents}")
