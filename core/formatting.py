"""Numbers and names as pages show them. `page_templates` offers each function here as a filter."""

import re


def format_percent(share: float) -> str:
    """Return a share as in `97.3 %`, with a narrow no-break space."""
    return f"{100 * share:.1f}\u202f%"


def format_bytes(amount: int) -> str:
    """Return a size in GB, MB, kB (powers of 1,000) or B."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= factor:
            return f"{amount / factor:.1f}\u202f{unit}"
    return f"{amount}\u202fB"


def format_small(amount: float) -> str:
    """Return an amount with two decimals; `<0.01` for one that is not nothing but would read so."""
    return "<0.01" if 0 < amount < 0.005 else f"{amount:.2f}"


def format_progress(done: float, total: float, unit: str) -> str:
    """Return how far something is, as in `6/10 steps` or `1.2 MB of 6.8 MB`."""
    if unit == "bytes":
        return f"{format_bytes(round(done))} of {format_bytes(round(total))}"
    return f"{done:,.0f}/{total:,.0f} {unit}"


def format_duration(seconds: float) -> str:
    """Return a time as in `2 h 05 min`, `3 min 04 s` or `8.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes}\u202fmin {rest:02d}\u202fs"
        if minutes < 60
        else f"{minutes // 60}\u202fh {minutes % 60:02d}\u202fmin"
    )


def format_label(name: str) -> str:
    """Return a key or a target in words: `far_paraphrases` → far paraphrases, `tuned-Q4_K_M` → tuned Q4_K_M."""
    return name.replace("tuned-", "tuned ", 1) if name.startswith("tuned-") else name.replace("_", " ")


def format_hash(text: object) -> str:
    """Return a text in which each long hexadecimal hash is cut to 12 digits and `…`."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{4,}\b", r"\1…", str(text))


def format_count(number: float) -> str:
    """Return a number with its thousands separated by a narrow no-break space."""
    return f"{number:,.10g}".replace(",", "\u202f")
