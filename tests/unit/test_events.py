"""The run's log: nothing that was written whole is lost, nothing half written is believed."""

import json
import threading
from pathlib import Path

from tuneline.core.events import FILE, Events, Follower, read_events


def test_events_come_back_in_order_with_their_stage(tmp_path: Path) -> None:
    events = Events(tmp_path / "run", "train")
    events.progress(1, 4, "rows", "ünï\nline")
    events.emit("metrics", step=2, loss=0.5)
    first, second = read_events(tmp_path / "run")
    assert (first["stage"], first["kind"], first["done"], first["total"], first["text"]) == (
        "train",
        "progress",
        1,
        4,
        "ünï\nline",
    )
    assert second["loss"] == 0.5 and first["time"] <= second["time"]


def test_a_line_cut_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    Events(tmp_path, "train").emit("metrics", step=1)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"kind": "metr')
    assert [e["step"] for e in read_events(tmp_path)] == [1]
    Events(tmp_path, "train").emit("metrics", step=2)
    assert [e["step"] for e in read_events(tmp_path)] == [1, 2]


def test_a_follower_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    assert list(follower.new_events()) == []
    event = {"time": "2026-11-30T10:00:00.000+00:00", "stage": "train", "kind": "warning", "text": "é"}
    line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
    with (tmp_path / FILE).open("ab", buffering=0) as file:
        file.write(line[:-3])
        assert list(follower.new_events()) == []
        file.write(line[-3:])
    assert [e["text"] for e in follower.new_events()] == ["é"]
    assert list(follower.new_events()) == []


def test_a_follower_from_the_end_sees_only_what_is_new(tmp_path: Path) -> None:
    events = Events(tmp_path, "train")
    events.emit("metrics", step=1)
    follower = Follower(tmp_path, from_end=True)
    events.emit("metrics", step=2)
    assert [e["step"] for e in follower.new_events()] == [2]


def test_writers_at_once_do_not_mix_their_lines(tmp_path: Path) -> None:
    def write(number: int) -> None:
        events = Events(tmp_path, f"s{number}")
        for step in range(50):
            events.emit("metrics", step=step, text="x" * 500)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(read_events(tmp_path))
    assert len(found) == 200 and all(
        [e["step"] for e in found if e["stage"] == f"s{n}"] == list(range(50)) for n in range(4)
    )
