"""The rehearsal's Volumes, below the real client: what it would refuse."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tuneline.rehearsal.volumes import BLOCK_BYTES, Volumes


def test_a_file_that_grows_is_read_as_it_was_told(tmp_path: Path) -> None:
    """Blocks of a Volume never change, and the client refuses one of another length than it was told."""
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"x" * (2 * BLOCK_BYTES + 100))
    plane: Any = SimpleNamespace(volume_path=lambda *_: file, signed_url=lambda path, start, bytes: f"{start} {bytes}")
    request = SimpleNamespace(volume_id="vo-1", path=file.name)
    answer = asyncio.run(Volumes.VolumeGetFile2(plane, request, None))
    assert list(answer.get_urls) == [f"0 {BLOCK_BYTES}", f"{BLOCK_BYTES} {BLOCK_BYTES}", f"{2 * BLOCK_BYTES} 100"]
