"""The plan: published memory reproduced, placement, steps, prices of one source, what is refused before it costs."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs import write_files
from tuneline.configs.compute import LONGEST_STOP_S, WAIT_HOURS
from tuneline.configs.hardware import GIB, OVERRIDES, hardware
from tuneline.configs.models import registry
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.core.spending import Attempt
from tuneline.engines.vllm.lora_ranks import LORA_RANKS, MAX_LORA_RANK
from tuneline.stages.plan import make_plan, refuse_unstartable
from tuneline.stages.plan.gpu_fit import fit_on_gpus
from tuneline.stages.plan.memory import MemoryParts, Workload, estimate_peak_memory
from tuneline.stages.plan.planned_vs_measured import compare_with_measurements
from tuneline.stages.plan.serving import plan_serving, refuse_unservable
from tuneline.stages.plan.stage_bounds import RunState, bound_stages, format_bounds, refuse_too_expensive
from tuneline.stages.plan.stop_time import StopTime, StopTimer, refuse_too_slow
from tuneline.stages.plan.training_cost import multiply_ranges

RECIPES = ROOT / "configs/recipes"
SHAPES = registry().shapes
TORCHTUNE = {"rank": 8, "rows": 2, "tokens": 2048, "unquantized_bytes": 2, "trained_bytes": 2, "optimizer_bytes": 4}
"""recipes/configs/llama3_1/8B_qlora_single_device.yaml with the README's "batch size 2, packed to 2048, compile":
adapters and AdamW in bf16, logits kept whole, activation checkpointing."""
AXOLOTL = {"rank": 32, "tokens": 4096, "unquantized_bytes": 2, "trained_bytes": 2, "optimizer_bytes": 1}
"""examples/llama-4/scout-qlora-single-h100-flex.yaml: one packed row, 4-bit Adam, offloaded checkpoints, cut
cross-entropy, linearized experts of which each token runs through all, and the vision tower loaded."""


@pytest.mark.parametrize(
    ("shape", "work", "published"),
    [
        # pytorch/torchtune, README.md, "Memory and training speed" (commit 0031bfb): GiB
        ("llama-3-8b", TORCHTUNE | {"head": "eighths"}, 7.4 * GIB),
        ("llama-3-8b", TORCHTUNE | {"head": "eighths", "method": "lora"}, 16.2 * GIB),
        (
            "llama-3-70b",
            TORCHTUNE | {"head": "eighths", "method": "lora", "rank": 16, "gpus": 8, "sharded": True},
            27.6 * GIB,
        ),
        # axolotl-ai-cloud/axolotl, examples/llama-4/README.md: "64.5GB VRAM for post-training with 4k context"
        (
            "llama-4-scout",
            AXOLOTL | {"head": "tiled", "checkpointing": "offloaded", "all_experts": True, "with_other": True},
            64.5e9,
        ),
    ],
)
def test_published_peaks_are_reproduced_within_15_percent(shape: str, work: dict[str, Any], published: float) -> None:
    assert estimate_peak_memory(SHAPES[shape], Workload(**work)).allocated == pytest.approx(published, rel=0.15)


def parts_of(work: Workload) -> MemoryParts:
    return estimate_peak_memory(SHAPES["llama-3-8b"], work)


def test_memory_follows_what_is_trained_and_how() -> None:
    one = parts_of(Workload())
    assert parts_of(Workload(method="lora")).weights > 2 * one.weights > 0
    assert parts_of(Workload(rank=32)).adapter == pytest.approx(2 * one.adapter)
    assert parts_of(Workload(rows=4)).activations > 3 * one.activations
    assert parts_of(Workload(checkpointing="none")).activations > 5 * one.activations
    assert parts_of(Workload(gpus=4)).weights == one.weights > 1.4 * parts_of(Workload(gpus=8, sharded=True)).weights
    assert one.logits > 2048 * 128256 * 10 > 8 * parts_of(Workload(loss_share=0.1)).logits
    assert one.total == pytest.approx(one.allocated + one.overhead)


def recipe(base: str = "llama-3.1-8b-instruct", **sections: Any) -> Recipe:
    data = {"sources": [{"grammar": "data/requests/train.yaml", "rows": 30433}], "validation_share": 1e-9}
    return Recipe.model_validate({"name": "r", "base": base, "data": data | sections.pop("data", {})} | sections)


def test_one_gpu_then_ddp_where_it_fits_one_and_fsdp2_where_it_does_not() -> None:
    small, large = recipe(), recipe(data={"max_tokens": 4096})
    eight, seventy = SHAPES["llama-3-8b"], SHAPES["llama-3-70b"]
    for count, shape, kind, sharded in ((1, eight, "L4", False), (4, eight, "L4", False), (4, seventy, "L40S", True)):
        fit = fit_on_gpus(large if shape is seventy else small, shape, kind, count)
        assert fit is not None and fit.work.sharded is sharded and fit.memory.total < hardware().usable_bytes(kind)
    assert fit_on_gpus(large, seventy, "RTX-4090", 1) is None
    assert fit_on_gpus(small, eight, "T4", 1) is None  # no bf16 there


def test_the_recipes_gpu_is_among_the_ways_and_every_way_fits() -> None:
    plan = make_plan(load_recipe(RECIPES / "llama-3.3-70b.yaml"))
    assert [(way.gpu, way.count) for way in plan.training.ways if way.asked] == [("H100", 2)]
    for way in plan.training.ways:
        assert way.memory.total <= hardware().usable_bytes(way.gpu)
    assert [way.usd for way in plan.training.ways] == sorted(way.usd for way in plan.training.ways)


def test_steps_and_epochs_say_each_other() -> None:
    by_steps = make_plan(recipe(train={"max_steps": 15000}), Path("none")).training
    assert by_steps.epochs == pytest.approx(15.8, abs=0.05)
    by_epochs = make_plan(recipe(train={"epochs": 2}), Path("none")).training
    assert by_epochs.steps == 2 * math.ceil(30433 / 32)


def test_what_cannot_be_counted_is_unknown_and_what_was_measured_is_taken(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    unknown = recipe(data={"sources": [{"path": str(tmp_path / "text")}]})
    told = make_plan(unknown, tmp_path / "run").training
    assert told.steps is None and told.tokens is None and told.ways[0].hours is None and not told.ways[0].costs
    from tuneline.stages.plan.dataset_size import estimate_dataset

    prepare_of(tmp_path / "run", unknown, rows_train=3200, tokens_mean=500.0)
    dataset = estimate_dataset(unknown, tmp_path / "run")
    assert dataset.train == 3200 and dataset.measured
    (tmp_path / "text/more.txt").write_text("other data than was prepared")
    assert not estimate_dataset(unknown, tmp_path / "run").measured


def prepare_of(run: Path, asked: Recipe, **metrics: float) -> None:
    build = write_files({"train.jsonl": ""}, metrics)
    settings = asked.section("data")
    artifacts.make(run / "prepare", stage_version=2, settings=settings, needs={}, build=build)


def test_rows_of_a_file_are_counted_from_its_beginning(tmp_path: Path) -> None:
    from tuneline.stages.plan.dataset_size import estimate_dataset

    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": "x" * 96}) + "\n" for _ in range(500)))
    rows = estimate_dataset(
        recipe(data={"sources": [{"path": str(file), "weight": 2}], "validation_share": 0.1}), tmp_path
    )
    assert rows.train == pytest.approx(900, rel=0.01)


def test_ranges_that_know_nothing_of_each_other_widen_as_errors_do() -> None:
    low, high = multiply_ranges((1, 4), (1, 4))
    assert low * high == pytest.approx(16) and 4 < high / low < 16
    assert multiply_ranges((2, 2), (3, 3)) == pytest.approx((6, 6))


def test_who_waits_for_the_stages_is_paid_for_as_long() -> None:
    asked = load_recipe(RECIPES / "llama-3.1-8b.yaml")
    fetched = RunState({"fetch": "finished"})
    *stages, pipeline = bound_stages(asked, ["fetch", "train"], fetched)
    assert pipeline.stage == "pipeline" and pipeline.usd_at_most > 0
    assert pipeline.hours_at_most == stages[1].hours_at_most + WAIT_HOURS
    assert [b.usd_at_most > 0 for b in stages] == [False, True]
    assert [b.stage for b in bound_stages(asked, ["fetch"], fetched)] == ["fetch"]


def test_what_a_run_has_used_is_bound_no_more_and_what_it_has_cost_counts(tmp_path: Path) -> None:
    asked = load_recipe(RECIPES / "llama-3.1-8b.yaml")
    price = asked.compute.train.usd_per_hour
    hours = asked.compute.train.hours - 6
    used = [Attempt(stage="train", began=1, seconds=hours * 3600, state="ended", usd_per_hour=price)]
    [train, _] = bound_stages(asked, ["train"], RunState({}, used, train_stop_s=900))
    assert (train.hours_used, train.hours_at_most) == (hours, 6.25) and train.usd_at_most == pytest.approx(6.25 * price)
    finished = [used[0].model_copy(update={"state": "finished"})]
    [again, _] = bound_stages(asked, ["train"], RunState({}, finished, train_stop_s=900))
    assert again.hours_used == 0  # it was removed, and is made again
    limited = asked.model_copy(update={"compute": asked.compute.model_copy(update={"max_cost_usd": 400.0})})
    refuse_too_expensive(limited, [train])
    with pytest.raises(BadRecipe, match=r"this could cost .* USD in addition to 380\.00 already spent"):
        refuse_too_expensive(limited, [train], spent_usd=380)
    table = format_bounds([train], spent_usd=380)
    assert "380.00 USD already spent" in table and "not included: starting and ending containers" in table


def test_the_time_to_stop_is_planned_from_the_longest_step_and_refused_where_no_call_has_it() -> None:
    balanced = load_recipe(RECIPES / "balanced.yaml")
    stop_time = make_plan(balanced).stop
    assert stop_time.step == pytest.approx(264, abs=1)  # 32 rows of 4,096 tokens at the slowest planned speed
    [bound] = [b for b in make_plan(balanced).line if b.stage == "train"]
    assert stop_time.total > 264 + 60 and bound.hours_at_most == pytest.approx(
        balanced.compute.train.hours + stop_time.total / 3600
    )
    huge = balanced.model_copy(update={"train": balanced.train.model_copy(update={"batch_rows": 512})})
    with pytest.raises(
        BadRecipe, match=r"a step up to 4,228 s.*lower train.batch_rows or data.max_tokens, or use faster"
    ):
        refuse_unstartable(huge, make_plan(huge))
    slow = balanced.model_copy(update={"data": balanced.data.model_copy(update={"validation_rows": 5000})})
    with pytest.raises(BadRecipe, match="lower data.validation_rows"):
        refuse_too_slow(StopTime(step=100, validation=4000, checkpoint=10))
    refuse_unstartable(slow, make_plan(slow))  # it has not so many rows


def test_what_was_measured_replaces_what_was_planned(tmp_path: Path) -> None:
    def event(second: int, kind: str, **fields: Any) -> dict[str, Any]:
        return {
            "time": f"2026-11-30T10:{second // 60:02}:{second % 60:02}.000+00:00",
            "stage": "train",
            "kind": kind,
        } | fields

    timer, planned = StopTimer(), StopTime(step=264, validation=1000, checkpoint=80)
    assert timer.measured.or_else(planned) == planned
    for each in (
        event(0, "started"),
        event(100, "metrics", loss=1.0, step=1),  # with the time to load the model
        event(110, "metrics", loss=1.0, step=2),
        event(111, "note", text="no step"),
        event(130, "metrics", loss=1.0, step=3),
        event(136, "checkpoint", step=3, path="x"),
        event(500, "started"),
        event(600, "metrics", loss=1.0, step=4),
    ):
        timer.add(each)
    assert timer.measured == StopTime(step=1.5 * 20, checkpoint=1.5 * 6)
    assert timer.measured.or_else(planned) == StopTime(step=30, validation=1000, checkpoint=9)
    assert StopTime().total == LONGEST_STOP_S  # nothing is known of it


def test_all_prices_come_from_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = load_recipe(RECIPES / "llama-3.1-8b.yaml")

    def prices() -> tuple[float, float, str]:
        hardware.cache_clear()
        line = bound_stages(asked, ["train"])
        way = next(way for way in make_plan(asked).training.ways if way.asked)
        return line[0].usd_at_most, next(c.usd[1] for c in way.costs if c.provider == "modal"), format_bounds(line)

    before = prices()
    own = tmp_path / "own.yaml"
    own.write_text("gpus: {H100: {usd_per_second: 0.01}}\nas_of: 2030-01-01\n")
    monkeypatch.setenv(OVERRIDES, str(own))
    after = prices()
    own.write_text("gpus: [")
    with pytest.raises(BadRecipe, match="own.yaml"):
        prices()
    monkeypatch.delenv(OVERRIDES)
    hardware.cache_clear()
    assert after[0] > 5 * before[0] and after[1] > 5 * before[1]
    assert "2030-01-01" in after[2] and f"{after[0]:.2f}" in after[2]


def test_what_the_engine_cannot_load_is_refused_before_training() -> None:
    refuse_unservable(recipe(serve={"form": "adapter"}, train={"rank": 128}))
    with pytest.raises(BadRecipe, match="rank 256.*at most 128"):
        refuse_unservable(recipe(serve={"form": "adapter"}, train={"rank": 256}))
    with pytest.raises(BadRecipe, match="writes no adapter"):
        refuse_unservable(recipe(serve={"form": "adapter"}, train={"method": "full"}))
    refuse_unservable(recipe(serve={"form": "merged"}, train={"rank": 256}, convert={"format": "safetensors"}))
    with pytest.raises(BadRecipe, match=r"does not write a merged checkpoint\nwrite `convert: {format: safetensors}`"):
        refuse_unservable(recipe(serve={"form": "merged"}))
    assert MAX_LORA_RANK in LORA_RANKS


@pytest.mark.parametrize(("stage", "reason"), [("evaluate", "llama.cpp"), ("fetch", "downloads"), ("prepare", "rows")])
def test_a_gpu_that_would_do_nothing_is_refused(stage: str, reason: str) -> None:
    idle = recipe(compute={stage: {"gpu": "A10"}})
    with pytest.raises(BadRecipe, match=rf"compute.{stage}.gpu: A10: would be idle: .*{reason}"):
        refuse_unstartable(idle, make_plan(idle, Path("none")))


def test_what_no_gpu_speeds_up_gets_none_by_default() -> None:
    """The tiny base trains on a CPU, and GGUF files are asked there; only vLLM's forms rent a GPU to evaluate."""
    tiny, adapter = load_recipe(RECIPES / "micro.yaml").compute, recipe(serve={"form": "adapter"}).compute
    assert not any(getattr(tiny, stage).gpu for stage in ("fetch", "prepare", "train", "convert", "evaluate"))
    assert tiny.evaluate.hours == adapter.evaluate.hours == 4  # what is not stated keeps its default
    assert (adapter.train.gpu, adapter.evaluate.gpu) == ("H100", "A10")
    assert recipe().compute.evaluate.gpu is None and recipe(compute={"evaluate": {"hours": 2}}).compute.train.gpu
    assert Recipe.model_validate_json(recipe().to_json()) == recipe()
    huge = plan_serving(recipe(serve={"form": "gguf", "type": "F16"}), SHAPES["llama-3-70b"])
    assert huge.hardware is None  # no GPU is offered to a llama.cpp that has no CUDA


def test_publishing_targets_that_would_refuse_are_named() -> None:
    refused = make_plan(load_recipe(RECIPES / "llama-4-scout.yaml")).serving.refused
    assert "Fireworks AI takes at least 4 and at most 64" in " ".join(refused)
    assert make_plan(load_recipe(RECIPES / "balanced.yaml")).serving.refused == ()


def test_a_context_of_ten_million_tokens_is_answered_with_its_gigabytes() -> None:
    scout = SHAPES["llama-4-scout"]
    told = plan_serving(load_recipe(RECIPES / "llama-4-scout.yaml"), scout, context=10_000_000)
    assert told.kv_bytes == pytest.approx(48 * 2 * 8 * 128 * 2 * 10e6)  # 1,966 GB
    assert told.kv_local_bytes < told.kv_bytes / 3.9 and told.hardware is None


def test_a_flat_offer_is_told_where_it_holds_the_file_and_where_not() -> None:
    flat = {
        base: plan_serving(recipe(serve={"form": "gguf"}), SHAPES[base]).flat for base in ("llama-3-1b", "llama-3-8b")
    }
    assert (
        flat["llama-3-1b"]["render"] == hardware().flat["render"].usd_per_month and flat["llama-3-8b"]["render"] is None
    )
    assert plan_serving(recipe(serve={"form": "merged"}), SHAPES["llama-3-1b"]).flat == {}


def test_an_api_bill_is_held_against_the_month() -> None:
    eight, asked = SHAPES["llama-3-8b"], recipe(serve={"form": "merged"})
    month = plan_serving(asked, eight).usd_per_month
    assert month and plan_serving(asked, eight, api_usd=2 * month).break_even_share == pytest.approx(0.5)
    more = plan_serving(asked, eight, context=100_000, streams=64)
    assert more.kv_bytes > 100e9 and more.usd_per_month and more.usd_per_month > month


def trained(run: Path, asked: Recipe, **metrics: float) -> list[dict[str, Any]]:
    (run / "recipe.json").write_text(asked.model_dump_json())
    prepare_of(run, asked, rows_train=3200, tokens_mean=500.0, learned_tokens_mean=100.0)
    return [{"stage": "train", "kind": "metrics", "step": step, **metrics} for step in (1, 2, 3)]


def test_what_was_planned_is_held_against_what_a_gpu_measured(tmp_path: Path) -> None:
    asked = load_recipe(RECIPES / "llama-3.1-8b.yaml")
    way = next(way for way in make_plan(asked, tmp_path).training.ways if way.asked)
    events = trained(tmp_path, asked, tokens_per_second=3 * way.tokens_per_second[1], memory_gb=30.0)
    found = {one.name: one for one in compare_with_measurements(tmp_path, 7200, events, cost_usd=9.5)}
    assert found["memory"].measured == 30 and found["time"].measured == 2
    assert found["cost"].measured == 9.5
    unpriced = compare_with_measurements(tmp_path, 7200, events)  # on a GPU that nobody was billed for
    assert {one.name for one in unpriced} == found.keys() - {"cost"}
    # Told the line that would have been right, the next plan is.
    own = tmp_path / "own.yaml"
    own.write_text(found["speed"].correction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OVERRIDES, str(own))
        hardware.cache_clear()
        corrected = next(way for way in make_plan(asked, tmp_path).training.ways if way.asked).tokens_per_second
    hardware.cache_clear()
    assert corrected[0] < found["speed"].measured < corrected[1]


def test_a_preemption_costs_at_most_the_minutes_between_checkpoints(tmp_path: Path) -> None:
    asked = load_recipe(RECIPES / "llama-3.1-8b.yaml")
    asked = asked.model_copy(update={"train": asked.train.model_copy(update={"save_steps": 10_000})})
    by_steps = asked.model_copy(update={"compute": asked.compute.model_copy(update={"save_minutes": None})})
    bounded, unbounded = (make_plan(recipe, tmp_path).preemption for recipe in (asked, by_steps))
    assert bounded and unbounded
    assert 20 * 60 < bounded.interval_s[1] < 20 * 60 + 600 < unbounded.interval_s[0]
    assert bounded.expected_s[1] == bounded.interval_s[1] / 2


def test_a_run_on_the_cpu_is_held_against_a_plan_for_the_cpu(tmp_path: Path) -> None:
    events = trained(tmp_path, recipe("tiny"), tokens_per_second=1000.0, process_gb=1.1)
    found = {one.name: one for one in compare_with_measurements(tmp_path, 60, events)}
    assert set(found) == {"speed", "time", "memory"} and found["memory"].measured == pytest.approx(0.5)
    assert compare_with_measurements(tmp_path / "none", 60, events) == []


def test_above_max_cost_usd_nothing_starts() -> None:
    dear = recipe(compute={"max_cost_usd": 10})
    with pytest.raises(BadRecipe, match="max_cost_usd: 10: this could cost"):
        refuse_unstartable(dear, make_plan(dear, Path("none")))


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda f: f.stem)
def test_every_recipe_we_ship_plans_and_its_hardware_holds_it(file: Path) -> None:
    recipe = load_recipe(file)
    plan = make_plan(recipe)
    refuse_unstartable(recipe, plan)
    assert file.stem == "micro" or any(way.asked for way in plan.training.ways)
    assert plan.training.steps and plan.serving.hardware


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "huggingface_hub", "modal", "numpy"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
sys.argv = ["tuneline", *sys.argv[1:]]
from tuneline import cli
cli.main()
"""


def tuneline(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_needs_configs_alone() -> None:
    scout = str(RECIPES / "llama-4-scout.yaml")
    told = tuneline("plan", scout)
    assert told.returncode == 0, told.stderr
    for word in (
        "109B",
        "960 = 1 epochs",
        "one GPU",
        "FSDP2",
        "Fireworks",
        "KV cache",
        "total",
        *hardware().elsewhere,
    ):
        assert word in told.stdout
    plan = json.loads(tuneline("plan", scout, "--json", "--context", "10000000").stdout)
    assert plan["training"]["parameters_active"] == SHAPES["llama-4-scout"].active
    assert sum(plan["training"]["ways"][0]["memory"].values()) > 60e9


def test_several_recipes_are_told_side_by_side() -> None:
    told = tuneline("plan", *(str(RECIPES / f"{name}.yaml") for name in ("cheap", "balanced", "production")))
    assert told.returncode == 0, told.stderr
    for word in (
        "cheap",
        "balanced",
        "production",
        "gguf",
        "adapter",
        "merged",
        "control",
        "gives up",
        "USD per month",
    ):
        assert word in told.stdout


def test_a_recipe_that_should_not_start_is_planned_and_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text((RECIPES / "balanced.yaml").read_text().replace("rank: 64", "rank: 256"))
    told = tuneline("plan", str(file))
    assert told.returncode == 2 and "KV cache" in told.stdout and "rank 256" in told.stderr


def test_scout_with_its_experts_is_planned_as_its_recipe_shares_it() -> None:
    planned = make_plan(load_recipe(RECIPES / "llama-4-scout-experts.yaml"))
    assert planned.training.parameters_trained == pytest.approx(4.4e9, rel=0.01)
    assert [(way.gpu, way.count, way.how) for way in planned.training.ways if way.asked] == [("H200", 4, "FSDP2")]
    assert planned.serving.form == "merged" and not any("serve.form" in why for why in planned.serving.refused)
