"""The kinds of problems a dataset can have, each with its severity and its remedy, and the problems found."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

EXAMPLES_KEPT = 20
"""Examples kept of each kind. All are counted, so memory does not grow with the number of problems."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of problem. Errors stop `prepare`, warnings do not; `format` kinds count as `require: format_errors`."""

    severity: Severity
    remedy: str
    format: bool = False


KINDS = {
    "not_utf8": Kind("error", "save the file as UTF-8 and run again", True),
    "broken_json": Kind("error", "mend or remove this line", True),
    "not_a_row": Kind("error", "see docs/data.md for the formats, or map its columns", True),
    "wrong_role": Kind("error", "use system, user, assistant or tool", True),
    "wrong_order": Kind("error", "a system message first if any, then user and assistant in turn", True),
    "no_answer": Kind("error", "add the answer, or remove the row", True),
    "empty_message": Kind("error", "fill it, or remove the row", True),
    "unknown_tool": Kind("error", "add it to data.tools, or mend the name", True),
    "bad_tool": Kind("error", "mend the tool's entry", True),
    "bad_arguments": Kind("error", "mend the call, or the tool's schema", True),
    "result_without_call": Kind("error", "remove the result, or put its call before it", True),
    "call_without_result": Kind("error", "put a result after each call, or end the row with the call", True),
    "control_token": Kind("error", "take it out of the text: it would steer the model", True),
    "not_text": Kind("error", "Tuneline learns from text; remove the part", True),
    "broken_transcript": Kind("error", "mend the tags: [CALL] name(args) [RESULT] … [RESPONSE] …", True),
    "not_rendered": Kind("error", "mend the row, or give the base a template that takes it"),
    "nothing_learned": Kind("error", "the template marks no token of it as the assistant's: mend the template"),
    "secret": Kind("error", "revoke it, and take it out (`tuneline validate --fix` masks it)"),
    "in_test": Kind("error", "remove it from training (`--fix` does)"),
    "mojibake": Kind("warning", "read the original in its own encoding (`--fix` repairs the text)"),
    "bad_character": Kind("warning", "remove it (`--fix` does)"),
    "too_long": Kind("warning", "it is left out; split it, or raise data.max_tokens"),
    "personal_data": Kind("warning", "mask it if it is a real person's (`--fix` does)"),
    "names_not_found": Kind("warning", "install a spaCy model of the language, docs/data.md says how"),
    "duplicate": Kind("warning", "keep one (`--fix` does, and data.duplicates: drop)"),
    "near_duplicate": Kind("warning", "keep one (`--fix` does, and data.duplicates: drop)"),
    "near_test": Kind("warning", "remove it from training (`--fix` does)"),
    "wrong_language": Kind("warning", "translate or remove it, or add the language to data.languages"),
    "imbalance": Kind("warning", "add rows, or give its source a weight"),
    "few_of_a_style": Kind("warning", "add text in this style"),
    "empty_source": Kind("warning", "check its path and format"),
    "small_source": Kind("warning", "add rows, or leave the source out"),
    "skipped_file": Kind("warning", "name a format for it, or take it out of the folder"),
}


@dataclass(frozen=True)
class Problem:
    """One problem, printed as `file:line: text; remedy`. Line 0 means the file as a whole."""

    kind: str
    file: str
    line: int
    text: str
    column: int = 0

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    @property
    def remedy(self) -> str:
        return KINDS[self.kind].remedy

    def __str__(self) -> str:
        numbers = [str(number) for number in (self.line, self.column) if number]
        return f"{':'.join([self.file, *numbers])}: {self.text}; {self.remedy}"


@dataclass
class Findings:
    """Collects problems: counts all of them, and keeps the first of each kind as examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Problem]] = field(default_factory=dict)

    def add(self, problem: Problem) -> None:
        self.counts[problem.kind] += 1
        examples = self.examples.setdefault(problem.kind, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(problem)

    def count(self, severity: Severity, *, format_only: bool = False) -> int:
        """Return the number of problems of this severity, or with `format_only` of its format kinds."""
        return sum(
            count
            for kind, count in self.counts.items()
            if KINDS[kind].severity == severity and KINDS[kind].format >= format_only
        )

    def examples_of(self, severity: Severity) -> list[Problem]:
        """Return the examples of this severity, in the order of `KINDS`."""
        kinds = [kind for kind in KINDS if KINDS[kind].severity == severity]
        return [problem for kind in kinds for problem in self.examples.get(kind, [])]

    def as_json(self) -> dict[str, Any]:
        """Return the counts and examples by kind, as in `validation.json`."""
        return {
            kind: {
                "severity": KINDS[kind].severity,
                "count": self.counts[kind],
                "remedy": KINDS[kind].remedy,
                "first": [{"file": p.file, "line": p.line, "text": p.text} for p in self.examples[kind]],
            }
            for kind in KINDS
            if self.counts[kind]
        }


class RowError(Exception):
    """A problem of one row, raised or yielded by code that does not know where the row is."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text

    def at(self, file: Path | str, line: int) -> Problem:
        """Return the problem at this place."""
        return Problem(self.kind, str(file), line, self.text)
