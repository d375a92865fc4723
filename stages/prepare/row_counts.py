"""How many rows were read, whether they can be trained on or not."""

from tuneline.stages.prepare.checks.problems import Problem


class RowCounts:
    """Counts records with errors, rows that repeat others, and all other rows."""

    def __init__(self) -> None:
        self._refused = self._skipped = self._measured = 0
        self._refused_at = ("", 0)

    def refuse(self, problem: Problem) -> None:
        """Count a record of a file that has errors, once; all of them are reported one after the other."""
        place = problem.file, problem.line
        if problem.severity == "error" and place != self._refused_at:
            self._refused, self._refused_at = self._refused + 1, place

    def skip(self) -> None:
        """Count a row that repeats another and is left out."""
        self._skipped += 1

    def measure(self, rows: int) -> None:
        """Count rows that are rendered and measured."""
        self._measured += rows

    @property
    def read(self) -> int:
        """All of them."""
        return self._refused + self._skipped + self._measured
