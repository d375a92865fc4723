"""The kinds of problems a dataset can have, each with its severity and its remedy, and the problems found."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

EXAMPLES_KEPT = 20
"""Examples kept of each kind. All are counted, so memory does not grow with the number of problems."""
GROUP_EXAMPLES, GROUPS_KEPT = 3, 200
"""Examples kept of each fault, and faults of each kind that are counted one by one."""
OTHER_FAULTS = "other faults"

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of problem. Errors stop `prepare`, warnings do not; `format` kinds count as `require: format_errors`."""

    severity: Severity
    remedy: str
    format: bool = False


KINDS = {
    "not_utf8": Kind("error", "save the file as UTF-8 and run again", True),
    "broken_json": Kind("error", "fix or remove this line", True),
    "unreadable": Kind("error", "the rest of the file was not read: save or download it again", True),
    "not_a_row": Kind("error", "see docs/data.md for the formats, or map its columns", True),
    "repeated_key": Kind("error", "rename or remove one of the two", True),
    "preference": Kind("error", "set `learn: chosen` in its source to train on the chosen answers", True),
    "bad_weight": Kind("error", "correct it, or remove it", True),
    "tool_choice": Kind("error", "correct the row, or remove the key", True),
    "wrong_role": Kind("error", "use system, user, assistant or tool", True),
    "not_learned": Kind("error", "give one of its answers the weight 1, or remove the row", True),
    "no_answer": Kind("error", "add the answer, or remove the row", True),
    "empty_message": Kind("error", "fill it, or remove the row", True),
    "unknown_tool": Kind("error", "add it to data.tools or to the row's `tools`, or correct the name", True),
    "bad_tool": Kind("error", "correct the tool's entry", True),
    "bad_arguments": Kind("error", "correct the call or the tool's schema", True),
    "result_without_call": Kind("error", "remove the result, or put its call before it", True),
    "call_without_result": Kind("error", "put a result after each call, or end the row with the call", True),
    "control_token": Kind("error", "remove it from the text: it would control the model", True),
    "not_text": Kind("error", "Tuneline trains on text only; remove the part", True),
    "broken_transcript": Kind("error", "correct the tags: [CALL] name(args) [RESULT] … [RESPONSE] …", True),
    "not_rendered": Kind("error", "correct the row, or use a template that accepts it"),
    "nothing_learned": Kind("error", "the template marks no token of it as the assistant's: correct the template"),
    "empty_side": Kind("error", "add rows, or name a validation file in data.validation"),
    "lost_in_template": Kind("error", "write `template: hermes` (tools in the base's own turns) or another template"),
    "thinking_not_written": Kind(
        "warning", "it is not trained on: use a template that writes it, or put it in the text"
    ),
    "secret": Kind("error", "revoke it and remove it (`tuneline validate --fix` masks it)"),
    "in_test": Kind("error", "remove it from training (`--fix` does it)"),
    "unused_key": Kind("warning", "map it (`columns:`), put it into the text, or remove it"),
    "verse": Kind("warning", "if it is prose, put each paragraph into one line, or empty lines between paragraphs"),
    "unread_part": Kind("warning", "put it in a file of its own"),
    "left_out": Kind("warning", "remove the key to train on it"),
    "thinking_dropped": Kind("warning", "`data.keep_thinking: true` keeps it, as text before the answer"),
    "thinking": Kind(
        "warning", "`data.keep_thinking: true` makes it text before the answer, which any template writes"
    ),
    "wrong_order": Kind("warning", "reorder the turns yourself if this is not what they mean"),
    "tail_left_out": Kind("warning", "add the answer, or remove these turns"),
    "tool_differs": Kind(
        "warning", "remove the tool from the rows to use that of data.tools, if both mean the same tool"
    ),
    "tool_renamed": Kind("warning", "rename it in the data and in what serves it"),
    "tool_not_listed": Kind("warning", "add it to the row's tools"),
    "schema_changed": Kind("warning", "write the types of JSON Schema"),
    "system_changed": Kind("warning", "requests list tools in `tools`, not in the system message"),
    "nulls_left_out": Kind("warning", "write arguments as JSON text, to keep what is null on purpose"),
    "python_text": Kind("warning", "write it with json.dumps"),
    "calls_as_text": Kind("warning", "add `tools` to the row: calls trained as text are never returned as calls"),
    "text_as_turns": Kind("warning", "`learn: continuation` trains on the whole text as it is"),
    "chat_as_text": Kind("warning", "`learn: instruction` reads its turns"),
    "split_file": Kind("warning", "list the files as separate sources to train on all of them"),
    "mojibake": Kind("warning", "read the original in its own encoding (`--fix` repairs the text)"),
    "bad_character": Kind("warning", "remove it (`--fix` does it)"),
    "too_long": Kind("warning", "it is left out; split it, or raise data.max_tokens"),
    "personal_data": Kind("warning", "mask it if it is a real person's (`--fix` does)"),
    "names_not_found": Kind("warning", "install a spaCy model of the language, docs/data.md says how"),
    "duplicate": Kind("warning", "keep only one (`--fix` or data.duplicates: drop does it)"),
    "near_duplicate": Kind("warning", "keep only one (`--fix` or data.duplicates: drop does it)"),
    "few_passages": Kind(
        "error", "raise data.validation_share, give each style several documents, or leave the suite out"
    ),
    "asked_in_training": Kind(
        "warning", "remove it from training or from the test: an item that was trained on proves nothing"
    ),
    "near_test": Kind("warning", "remove it from training (`--fix` does it)"),
    "wrong_language": Kind("warning", "translate or remove it, or add the language to data.languages"),
    "imbalance": Kind("warning", "add rows, or give its source a weight"),
    "few_of_a_style": Kind("warning", "the model will hardly learn it: add text in this style"),
    "empty_source": Kind("warning", "check its path and format"),
    "small_source": Kind("warning", "add rows, or remove the source"),
    "skipped_file": Kind("warning", "set a format for it, or remove it from the folder"),
}


@dataclass(frozen=True)
class Problem:
    """One problem, printed as `file:line: text; remedy`. Line 0 means the file as a whole."""

    kind: str
    file: str
    line: int
    text: str
    column: int = 0
    quote: str = ""
    """The text it is about, for people on this machine: not part of messages, which are logged. Secrets are masked."""

    @property
    def pattern(self) -> str:
        """What it has in common with problems of the same fault elsewhere: its text without numbers and places."""
        text = re.sub(r"(equal to) .*", r"\1 another row", self.text)
        if self.quote:
            text = text.partition(": ")[0]
        return re.sub(r"\b\d+\b", "N", text)

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    @property
    def remedy(self) -> str:
        return KINDS[self.kind].remedy

    def as_json(self) -> dict[str, Any]:
        """Return its place, text and quote, as in `validation.json`."""
        quote = {"quote": self.quote} if self.quote else {}
        return {"file": self.file, "line": self.line, "text": self.text} | quote

    def __str__(self) -> str:
        numbers = [str(number) for number in (self.line, self.column) if number]
        return f"{':'.join([self.file, *numbers])}: {self.text}; {self.remedy}"


@dataclass
class Group:
    """Problems of one fault: their number, and the first of them."""

    count: int = 0
    first: list[Problem] = field(default_factory=list)


@dataclass
class Findings:
    """Collects problems: counts all of them, and keeps the first of each kind, and of each fault, as examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Problem]] = field(default_factory=dict)
    groups: dict[str, dict[str, Group]] = field(default_factory=dict)
    """By kind and pattern; no more than `GROUPS_KEPT` of a kind."""

    def add(self, problem: Problem) -> None:
        self.counts[problem.kind] += 1
        self._add_to_group(problem)
        examples = self.examples.setdefault(problem.kind, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(problem)

    def _add_to_group(self, problem: Problem) -> None:
        groups, pattern = self.groups.setdefault(problem.kind, {}), problem.pattern
        if pattern not in groups and len(groups) == GROUPS_KEPT:
            pattern = OTHER_FAULTS
        group = groups.setdefault(pattern, Group())
        group.count += 1
        if len(group.first) < GROUP_EXAMPLES:
            group.first.append(problem)

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
                "first": [p.as_json() for p in self.examples[kind]],
                "groups": [
                    {"fault": pattern, "count": group.count, "first": [p.as_json() for p in group.first]}
                    for pattern, group in sorted(self.groups[kind].items(), key=lambda item: -item[1].count)
                ],
            }
            for kind in KINDS
            if self.counts[kind]
        }


class RowError(Exception):
    """A problem of one row, raised or yielded by code that does not know where the row is."""

    def __init__(self, kind: str, text: str, quote: str = "") -> None:
        super().__init__(text)
        self.kind, self.text, self.quote = kind, text, quote

    def at(self, file: Path | str, line: int) -> Problem:
        """Return the problem at this place."""
        return Problem(self.kind, str(file), line, self.text, quote=self.quote)
