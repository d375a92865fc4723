"""The request log on a disk that is full for a while."""

import os
from pathlib import Path

import pytest

from tuneline.endpoints.request_log.follower import LogFollower
from tuneline.endpoints.request_log.writer import LogWriter


def test_a_line_that_was_written_in_part_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, write = LogWriter(tmp_path), os.write
    writer.append({"id": "before"})
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, content: write(descriptor, content[: len(content) // 2]))
        with pytest.raises(OSError, match="in part"):
            writer.append({"id": "cut"})
    writer.append({"id": "after"})
    writer.append({"id": "last"})
    writer.close()
    assert [record["id"] for record in LogFollower(tmp_path).poll()] == ["before", "after", "last"]
