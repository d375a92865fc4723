"""The blind ballot as one HTML page: two answers side by side, no model names, and votes saved as a JSON file."""

import json
from dataclasses import asdict
from pathlib import Path

from tuneline.core.files import write_atomic
from tuneline.core.page_templates import load_template, mark_safe
from tuneline.stages.evaluate.verdicts.ratings import Ballot


def write_ballot(ballot: Ballot, file: Path) -> Path:
    """Write the page to `file` and return its path."""
    questions = json.dumps([asdict(question) for question in ballot.questions], ensure_ascii=False)
    # "<" is escaped because "</script>" in an answer would end the script that holds the questions.
    page = load_template(Path(__file__).with_name("ballot.html.jinja")).render(
        id=ballot.id, count=len(ballot.questions), questions=mark_safe(questions.replace("<", "\\u003c"))
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, page)
    return file
