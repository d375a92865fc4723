"""Numbers with their units, as plans and lists of bases show them."""

import math

from tuneline.configs.hardware import GIB, Range
from tuneline.core.formatting import format_small


def format_range(bounds: Range) -> str:
    """Return `low–high` with 0 to 2 decimals by the size of the upper bound, or one number if both read the same."""
    low, high = bounds
    if 0 < high < 0.005:
        return format_small(high)
    digits = 0 if high >= 100 else 1 if high >= 10 else 2
    return f"{low:,.{digits}f}–{high:,.{digits}f}" if f"{low:.3g}" != f"{high:.3g}" else f"{high:,.{digits}f}"


def format_usd(usd: float | None) -> str:
    """Return an amount in whole dollars, without a sign; `unknown` for None."""
    return "unknown" if usd is None else f"{usd:,.0f}"


def format_gib(size_bytes: float) -> str:
    """Return a size in GiB, with one decimal below 1,000 GiB."""
    return f"{size_bytes / GIB:,.1f} GiB" if size_bytes < 1000 * GIB else f"{size_bytes / GIB:,.0f} GiB"


def abbreviate(number: float) -> str:
    """Return a number to three significant digits with k, M, B or T, as in `109B`."""
    if number < 1000:
        return f"{number:.0f}"
    power = min(int(math.log10(number) // 3), 4)
    return f"{number / 1000**power:.3g}{' kMBT'[power]}"
