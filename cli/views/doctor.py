"""What `tuneline doctor` found on this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuneline.cli.views.text_grid import format_grid

if TYPE_CHECKING:
    from tuneline.stages.doctor import Finding


def format_findings(findings: Sequence["Finding"]) -> str:
    """Return a line for each finding: `missing` stops something, `absent` only leaves something out."""
    return format_grid(["", "", "", "fix"], [[f.subject, f.state, f.detail, f.fix] for f in findings])
