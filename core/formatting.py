"""How figures, names and answers are written on a page, and the templates that take them."""

from pathlib import Path
from typing import Any

Row = dict[str, Any]


def template(file: Path, *, escape: bool = True) -> Any:
    """A page's template, which may include others beside it, with the filters its figures need; `escape` for HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(file.parent),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters |= {"percent": percent, "size": size, "duration": duration, "words": words, "count": count}
    return environment.get_template(file.name)


def call_text(call: Row) -> str:
    """A call as a line of code."""
    if call["name"] is None:
        return ", ".join(call["words"]) if "words" in call else "no call"
    arguments = call["arguments"]
    if isinstance(arguments, dict):
        inner = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
    else:
        inner = "no JSON object" if "raw" in call else "…"
    return f"{call['name']}({inner})"


def said(answer: Any) -> str:
    """What a model answered, in a line."""
    return "; ".join(map(call_text, answer.calls)) or f"no call: {answer.error or answer.text}"[:400]


def figures(both: tuple[float, float]) -> str:
    """One figure, or a range, to three places."""
    low, high = (f"{float(f'{value:.3g}'):,.10g}" for value in both)
    return low if low == high else f"{low} – {high}"


def percent(share: float) -> str:
    """97.3 %, with a narrow space that does not break."""
    return f"{100 * share:.1f}\u202f%"


def size(amount: int) -> str:
    """Bytes as people say them, in powers of 1,000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= factor:
            return f"{amount / factor:.1f}\u202f{unit}"
    return f"{amount}\u202fB"


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 04 s, or 8.2 s."""
    if seconds < 60:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes}\u202fmin {rest:02d}\u202fs"
        if minutes < 60
        else f"{minutes // 60}\u202fh {minutes % 60:02d}\u202fmin"
    )


def words(name: str) -> str:
    """A key or target as people read it: `far_paraphrases`, `tuned-Q4_K_M` → far paraphrases, tuned Q4_K_M."""
    return name.replace("tuned-", "tuned ", 1) if name.startswith("tuned-") else name.replace("_", " ")


def count(number: float) -> str:
    """Thousands set apart by a thin space."""
    return f"{number:,.10g}".replace(",", "\u202f")


def safe(svg: str) -> Any:
    """Our own drawing; every text in it was escaped where it was made."""
    from markupsafe import Markup

    return Markup(svg)


def plain(value: Any) -> str:
    """A setting, without brackets and digits nobody needs."""
    return (
        ", ".join(map(str, value))
        if isinstance(value, list | tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def short(number: float) -> str:
    """Without its leading 0, so that it fits beside a plot on a phone."""
    return f"{number:g}".replace("0.", ".", 1)


def megabytes(amount: float) -> str:
    """Of an axis, whose numbers are in MB."""
    return f"{amount / 1000:g} GB" if amount >= 1000 else f"{amount:g} MB"
