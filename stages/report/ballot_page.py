"""The blind ballot as one HTML page: no names, keys, and a JSON file to hand in."""

import json
from dataclasses import asdict
from pathlib import Path

from tuneline.core import artifacts
from tuneline.core.formatting import safe, template
from tuneline.stages.evaluate.verdicts.ratings import Ballot


def write_ballot(ballot: Ballot, file: Path) -> Path:
    """Writes the page and returns its path."""
    questions = json.dumps([asdict(question) for question in ballot.questions], ensure_ascii=False)
    page = template(Path(__file__).with_name("ballot.html.jinja")).render(
        id=ballot.id, count=len(ballot.questions), questions=safe(questions.replace("<", "\\u003c"))
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_atomic(file, page)
    return file
