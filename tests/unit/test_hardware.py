"""What may be asked for, and what it costs at most."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tuneline.configs.cloud import Cloud, Schedule, cloud
from tuneline.configs.compute import Compute, Container, Conversion
from tuneline.configs.hardware import hardware
from tuneline.core.errors import BadRecipe


@pytest.mark.parametrize("gpu", ["H100:9", "A10:5", "FOO:2", "H100:0", "H100:x", "H100:"])
def test_a_gpu_nobody_can_hire_is_refused(gpu: str) -> None:
    if gpu == "H100:":
        assert hardware().parse_gpu(gpu) == ("H100", 1)
        return
    with pytest.raises(BadRecipe):
        hardware().parse_gpu(gpu)
    with pytest.raises(ValidationError):
        Container(gpu=gpu)


def test_the_cost_at_most_is_of_the_hours_that_are_left_and_of_stopping_once() -> None:
    asked = Container(gpu="H100:2", cores=4, memory_gib=10, hours=3, retries=10)
    an_hour = 3600 * (2 * 0.001097 + 4 * 0.0000131 + 10 * 0.00000222)
    assert asked.usd_per_hour == pytest.approx(an_hour)
    assert asked.usd_at_most() == pytest.approx(an_hour * (3 + 1 / 60))  # however often it is preempted or tried again
    assert asked.usd_at_most(used=2.5, stop_s=600) == pytest.approx(an_hour * (0.5 + 1 / 6))
    assert asked.usd_at_most(used=3) == 0


def test_a_large_disk_costs_as_memory_does() -> None:
    small, large = (Conversion(memory_gib=memory).usd_per_hour for memory in (4, 64))
    assert small == pytest.approx(3600 * (2 * 0.0000131 + 35 * 0.00000222))  # 700 GiB at 20:1
    assert large == Container(memory_gib=64).usd_per_hour


def test_a_stage_keeps_the_hardware_nobody_speaks_of() -> None:
    asked = Compute.model_validate({"train": {"hours": 48}, "evaluate": {"gpu": None}})
    assert (asked.train.gpu, asked.train.memory_gib, asked.train.hours) == ("H100", 32, 48)
    assert (asked.evaluate.gpu, asked.evaluate.hours) == (None, 4)


@pytest.mark.parametrize("cron", ["0 6 * * 1", "*/15 0-6,8 1 1-12/2 0,7", "* * * * *"])
def test_cron_as_crontab_takes_it(cron: str) -> None:
    assert Schedule(cron=cron).cron == cron


@pytest.mark.parametrize("cron", ["61 * * * *", "* * * *", "a * * * *", "*/0 * * * *", "1-2-3 * * * *", "* 24 * * *"])
def test_cron_that_would_never_run_is_refused(cron: str) -> None:
    with pytest.raises(ValidationError):
        Schedule(cron=cron)


def test_nothing_that_costs_by_itself_is_on_as_shipped(tmp_path: Path) -> None:
    shipped = cloud()
    assert shipped.schedule.cron is None and shipped.endpoint.min_containers == 0 and shipped.secrets == ()
    with pytest.raises(ValidationError, match="which is built for CPUs"):
        Cloud.model_validate({"endpoint": {"form": "gguf", "gpu": "A10"}})
    with pytest.raises(ValidationError, match="needs a gpu"):
        Cloud.model_validate({"endpoint": {"form": "merged"}})
    wrong = tmp_path / "cloud.yaml"
    wrong.write_text("endpoint: {min_container: 1}")
    with pytest.raises(BadRecipe, match="min_container"):
        cloud(wrong)
