"""Which of two models people prefer."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuneline.stages.evaluate.verdicts.ratings import Preference


def format_preference(preference: "Preference") -> str:
    """Return what the votes on a ballot show: share, confidence interval, raters and their agreement."""
    decided = preference.a_won + preference.b_won
    lines = [
        f"{preference.verdict}: B = {preference.b} against A = {preference.a}",
        f"  B preferred   {preference.b_won} of {decided} decided items, {preference.share:.1%} "
        f"({preference.low:.1%} to {preference.high:.1%}, p = {preference.p:.2g}); {preference.tied} tied",
        f"  raters        {', '.join(preference.raters)}; {preference.items} items rated",
        f"  left answer chosen in {preference.left_share:.0%} of the votes for one side",
    ]
    if preference.kappa is not None:
        lines += [
            f"  agreement     kappa {preference.kappa:.2f}, the same vote in {preference.agreed:.0%} of "
            f"{preference.both_rated} items rated by two people"
        ]
    return "\n".join(lines)
