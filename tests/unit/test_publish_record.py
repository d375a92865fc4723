"""The record of what was published: without credentials, and readable whatever a host said."""

import json
from pathlib import Path

import pytest

from tuneline.publish.record import (
    FILE,
    Comparison,
    Published,
    StepRecord,
    TargetRecord,
    now,
    read_published,
    write_published,
)

SAID = 'the host said {"next": "https://user:secret-1@host/?token=secret-2"} at C:\\'


def test_a_hosts_words_leave_a_record_that_can_be_read_and_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is masked in the file as a whole takes a quote along, or misses a key that JSON writes otherwise."""
    monkeypatch.setenv("HOST_API_KEY", 'quoted"secret-3')
    compared = Comparison(prompts=40, same=40, required=28, answers_of="tuned-F16", reason=SAID)
    step = StepRecord(content="0", at=now(), values={"model": "me/it", "said": 'key quoted"secret-3 is taken'})
    record = TargetRecord(began=now(), state="published", steps={"create": step}, compared=compared)
    write_published(tmp_path, Published(targets={"hub": record}))
    text = (tmp_path / FILE).read_text()
    assert "secret" not in text and json.loads(text)
    read = read_published(tmp_path).targets["hub"]
    assert read.values["model"] == "me/it" and read.compared and read.compared.passed and read.began == record.began
