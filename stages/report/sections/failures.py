"""The wrong answers that say most about a model."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from tuneline.stages.evaluate.answers import Answer, expected_label
from tuneline.stages.report.evaluation_record import AnswersBySuite
from tuneline.stages.report.run_record import Row

FAILURES_SHOWN = 20
HOW_CHOSEN = (
    "First answers that the base had right, then one example of each confusion, most frequent first, then "
    "further examples; right tools with wrong arguments come last."
)

SuiteAnswer = tuple[str, Answer]
"""The name of a suite, and an answer to one of its items."""


def select_failures(answers: AnswersBySuite, base: AnswersBySuite) -> Row:
    """Return up to 20 wrong answers, chosen as `HOW_CHOSEN` says, and how many there are of each sort in all."""
    base_right = {(suite, a.id): a.name_correct for suite, suite_answers in base.items() for a in suite_answers}
    flat_answers = [(suite, a) for suite, suite_answers in answers.items() for a in suite_answers]
    wrong = [(suite, a) for suite, a in flat_answers if not a.name_correct]
    inexact = [(suite, a) for suite, a in flat_answers if a.name_correct and not a.exact]
    lost = [(suite, a) for suite, a in wrong if base_right.get((suite, a.id))]
    never_right = [(suite, a) for suite, a in wrong if not base_right.get((suite, a.id))]
    counts = Counter((expected_label(a), a.got) for _, a in wrong)
    chosen = [
        *_take_turns(lost, counts, "the base had it right; "),
        *_take_turns(never_right, counts, ""),
        *({"suite": suite, "why": "right tool, wrong arguments", "answer": a} for suite, a in inexact),
    ]
    totals = {"wrong": len(wrong), "lost": len(lost), "inexact": len(inexact)}
    return {"shown": chosen[:FAILURES_SHOWN], "chosen": HOW_CHOSEN, **totals}


def _take_turns(answers: Sequence[SuiteAnswer], counts: Mapping[tuple[str, str], int], prefix: str) -> Iterator[Row]:
    """Yield one answer of each confusion (expected, called), the most frequent first; then the second of each."""
    by_confusion: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for suite, answer in answers:
        expected, got = confusion = expected_label(answer), answer.got
        times = f"{counts[confusion]} time{'s' if counts[confusion] > 1 else ''}"
        why = f"{prefix}{got} for {expected}: {times}"
        by_confusion[confusion].append({"suite": suite, "why": why, "answer": answer})
    ranked = sorted(by_confusion.items(), key=lambda entry: (-counts[entry[0]], entry[0]))
    return (row for rows in zip_longest(*(rows for _, rows in ranked)) for row in rows if row)
