"""What was done to the rows of a file, or is not read of them: each kind of change once a file, with its count."""

from collections.abc import Iterator
from pathlib import Path

from tuneline.stages.prepare.checks.problems import Problem

MAX_NOTES = 200
"""Different notes kept of a file; keys that name what they hold (an id as a key) would fill memory."""


class Notes:
    """Collects the changes of a file; `line` is where the row begins that is being read."""

    def __init__(self, file: Path) -> None:
        self._file, self.line = file, 0
        self._counts: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], int] = {}

    def add(self, kind: str, text: str) -> None:
        """Count a change in the row that is being read."""
        key = (kind, text)
        if key not in self._counts:
            if len(self._counts) >= MAX_NOTES:
                key = (kind, "and others")
            self._first.setdefault(key, self.line)
        self._counts[key] = self._counts.get(key, 0) + 1

    def add_unused(self, keys: object, where: str) -> None:
        """Count keys that nothing reads."""
        for key in sorted(map(str, keys)):  # type: ignore[call-overload]
            self.add(
                "unused_key", f"{where}{key!r} is not read" if key else f"{where}a column without a name is not read"
            )

    def problems(self) -> Iterator[Problem]:
        """Yield a problem for each change, at the line where it was made first."""
        for key, count in self._counts.items():
            times = f" ({count} times, the first here)" if count > 1 else ""
            yield Problem(key[0], str(self._file), self._first[key], key[1] + times)
