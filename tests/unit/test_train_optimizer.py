"""Which AdamW trains where: 8-bit and paged optimizers refuse the DTensors of a sharded model at the first step."""

from dataclasses import replace

import pytest

from tuneline.configs.models import registry
from tuneline.stages.plan.memory import Workload, estimate_peak_memory
from tuneline.stages.train.loop.arguments import choose_optimizer


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_sharded_model_has_one_optimizer_on_gpus_and_cpus(on_gpu: bool) -> None:
    """So the two-process tests on the CPU step with the very optimizer of four GPUs."""
    assert choose_optimizer(on_gpu=on_gpu, sharded=True) == "adamw_torch_fused"


def test_one_gpu_keeps_its_states_in_8_bit() -> None:
    assert choose_optimizer(on_gpu=True, sharded=False) == "paged_adamw_8bit"
    assert choose_optimizer(on_gpu=False, sharded=False) == "adamw_torch"


def test_the_plan_counts_the_states_of_the_optimizer_that_runs() -> None:
    """Two states in 8 bit and their scales on each GPU, or two in 32 bit that all GPUs share."""
    shape = registry().shape("llama-3.1-8b-instruct")
    workload = Workload(gpus=4)
    whole, sharded = (estimate_peak_memory(shape, replace(workload, sharded=flag)) for flag in (False, True))
    assert sharded.optimizer / whole.optimizer == pytest.approx(8 / 4 / 2.06)
