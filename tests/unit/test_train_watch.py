"""What stops a training, what alerts, and what is kept; told from the trainer's own log."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments, get_scheduler

from tuneline.configs.training import Train, Watch
from tuneline.core.events import Events, read_events
from tuneline.stages.train.loop.callbacks import StartReport
from tuneline.stages.train.loop.early_stopping import (
    EarlyStopping,
    Validation,
    count_since_improvement,
    find_lowest,
    read_validations,
)
from tuneline.stages.train.loop.monitoring import Alerts, DivergenceStop

ARGUMENTS: Any = TrainingArguments(use_cpu=True)


def control(**flags: bool) -> TrainerControl:
    return TrainerControl(should_save=True, should_evaluate=True, **flags)


def log(callback: Any, *entries: dict[str, float]) -> TrainerControl:
    """The control after the last of these was logged."""
    for step, entry in enumerate(entries, 1):
        last = control()
        callback.on_log(ARGUMENTS, TrainerState(global_step=step, max_steps=1000), last, logs=entry)
    return last


def steady(steps: int) -> list[dict[str, float]]:
    return [{"loss": 2.0 + 0.1 * (i % 3), "grad_norm": 0.5} for i in range(steps)]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"loss": math.nan, "grad_norm": 1.0}, "the loss is nan"),
        ({"loss": math.inf, "grad_norm": 1.0}, "the loss is inf"),
        ({"loss": 2.0, "grad_norm": math.nan}, "the gradient norm is nan"),
        ({"loss": 10.6, "grad_norm": 0.5}, "the loss is 10.6, 5 times its median of 2.1"),
        ({"loss": 2.0, "grad_norm": 51.0}, "the gradient norm is 51, 102 times its median of 0.5"),
    ],
)
def test_divergence_stops_and_saves_nothing_more(entry: dict[str, float], says: str) -> None:
    watching = DivergenceStop()
    times = 5 if all(map(math.isfinite, entry.values())) else 1
    after = log(watching, *steady(30), *[entry] * times)
    assert watching.reason == says
    assert after.should_training_stop and not after.should_save and not after.should_evaluate


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_no_number_is_a_divergence(loss: float) -> None:
    watching = DivergenceStop()
    after = log(watching, *steady(30), {"eval_loss": loss})
    assert watching.reason == f"the validation loss is {loss}"
    assert after.should_training_stop and not after.should_save


def test_what_is_merely_high_stops_nothing() -> None:
    watching = DivergenceStop()
    assert log(watching, *steady(30), {"loss": 10.0, "grad_norm": 49.0}, {"eval_loss": 9.0}).should_save
    assert watching.reason is None


def test_one_hard_batch_is_not_a_divergence_and_nothing_is_saved_in_doubt() -> None:
    watching, hard = DivergenceStop(), {"loss": 50.0, "grad_norm": 0.5}
    doubtful = log(watching, *steady(30), *[hard] * 4)
    assert not doubtful.should_training_stop and not doubtful.should_save and doubtful.should_evaluate
    assert log(watching, *steady(1), *[hard] * 4, *steady(1)).should_save and watching.reason is None


def test_the_first_steps_have_no_median() -> None:
    watching = DivergenceStop()
    high = [{"loss": 9.0, "grad_norm": 90.0}] * 6
    assert not log(watching, {"loss": 0.1, "grad_norm": 0.1}, *high).should_training_stop


def test_a_resumed_run_knows_the_losses_of_before() -> None:
    watching = DivergenceStop()
    watching.on_train_begin(ARGUMENTS, TrainerState(log_history=steady(30)), control())
    assert log(watching, *[{"loss": 50.0, "grad_norm": 0.5}] * 5).should_training_stop


@pytest.mark.parametrize(
    ("settings", "steps", "says"),
    [
        ({}, 1, "has 1 step, and its learning rate stays 0: nothing is learned; lower"),
        ({}, 20, "has 20 steps, and its learning rate only rises to 0.00019 of 0.0002; lower train.warmup_steps (to 2"),
        ({}, 21, None),
        ({"schedule": "constant"}, 1, None),
        ({"warmup_steps": 0}, 1, None),
    ],
)
def test_a_warm_up_longer_than_the_training_is_said_at_its_start(
    tmp_path: Path, settings: dict[str, Any], steps: int, says: str | None
) -> None:
    report = StartReport(Train(**settings), Events(tmp_path, "train"))
    report.on_train_begin(ARGUMENTS, TrainerState(max_steps=steps), control())
    texts = [(event["kind"], event["text"]) for event in read_events(tmp_path)]
    assert [kind for kind, _ in texts] == ["warning"] * (says is not None)
    assert all(str(says) in text for _, text in texts)


def test_the_warm_up_is_the_trainers_own() -> None:
    """20 steps with a warm-up of 20 end at 19 twentieths of the rate; 21 reach it."""
    weights = [torch.nn.Parameter(torch.zeros(1))]
    for steps, reached in ((20, 0.95), (21, 1.0)):
        optimizer = torch.optim.SGD(weights, lr=1.0)
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=20, num_training_steps=steps)
        rates = []
        for _ in range(steps):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert max(rates) == pytest.approx(reached)


def test_a_resumed_training_says_where(tmp_path: Path) -> None:
    report = StartReport(Train(), Events(tmp_path, "train"))
    report.on_train_begin(ARGUMENTS, TrainerState(global_step=6, max_steps=100), control())
    assert [event["text"] for event in read_events(tmp_path)] == ["resumes at step 6 of 100"]


def test_an_alert_is_raised_once_until_the_bound_is_kept_again(tmp_path: Path) -> None:
    watching = Alerts(Watch(gradient_norm=1.0), Events(tmp_path, "train"))
    norms = [0.5, 1.0, 2.0, 0.9, 3.0]
    after = log(watching, *({"loss": 1.0, "grad_norm": norm} for norm in norms))
    told = [event["text"] for event in read_events(tmp_path)]
    assert told == [
        "watch.gradient_norm: at step 2 it is 1, and should stay below 1",
        "watch.gradient_norm: at step 5 it is 3, and should stay below 1",
    ]
    assert not after.should_training_stop


@pytest.mark.parametrize(("slope", "alerts"), [(-0.01, 0), (0.01, 1)])
def test_a_loss_that_does_not_fall_raises_an_alert(tmp_path: Path, slope: float, alerts: int) -> None:
    watching = Alerts(Watch(loss="falling"), Events(tmp_path, "train"))
    log(watching, *({"loss": 5.0 + slope * i} for i in range(200)))
    assert len(list(read_events(tmp_path))) == alerts


def test_without_bounds_nothing_alerts(tmp_path: Path) -> None:
    log(Alerts(Watch(), Events(tmp_path, "train")), *({"loss": float(i), "grad_norm": 1e9} for i in range(300)))
    assert not list(read_events(tmp_path))


@pytest.mark.parametrize(
    ("losses", "min_delta", "since"),
    [([3, 2, 1], 0, 0), ([3, 2, 2.5, 2.1], 0, 2), ([3, 2.95, 2.92], 0.1, 2), ([3, 2.95, 2.8], 0.1, 0)],
)
def test_patience_counts_validations_without_a_gain(losses: list[float], min_delta: float, since: int) -> None:
    assert count_since_improvement([Validation(i, loss) for i, loss in enumerate(losses)], min_delta) == since


def evaluate(watching: EarlyStopping, losses: list[float]) -> list[bool]:
    """Whether it stops, after each of these validations."""
    state, stops = TrainerState(max_steps=1000, log_history=[]), []
    for step, loss in enumerate(losses, 1):
        state.global_step = step * 10
        state.log_history.append({"eval_loss": loss, "step": step * 10})
        now = control()
        watching.on_evaluate(ARGUMENTS, state, now)
        stops.append(now.should_training_stop)
    assert find_lowest(read_validations(state)).loss == min(losses)
    return stops


def test_the_best_weights_are_saved_and_patience_ends_it(tmp_path: Path) -> None:
    saved: list[str] = []
    settings = Train(keep="best", patience=2)

    def save(folder: Path) -> None:
        folder.mkdir(parents=True)
        saved.append(folder.name)

    stops = evaluate(EarlyStopping(settings, tmp_path, save, Events(tmp_path, "train")), [3, 2, 1.5, 1.2, 1.3, 1.25])
    assert stops == [False] * 5 + [True]
    assert saved == ["step-10", "step-20", "step-30", "step-40"]
    assert sorted(f.name for f in tmp_path.glob("step-*")) == ["step-30", "step-40"]


def test_keep_last_saves_nothing_on_the_way(tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        raise AssertionError("saved")

    assert not any(evaluate(EarlyStopping(Train(), tmp_path, save, Events(tmp_path, "train")), [3, 4, 5]))


def test_a_token_costs_four_flops_a_frozen_weight_and_six_a_trained_one() -> None:
    import torch

    from tuneline.stages.train.loop.flops import count_flops_per_token

    model = torch.nn.Module()
    model.lm_head = torch.nn.Linear(8, 100, bias=False).requires_grad_(False)
    model.lora = torch.nn.Linear(8, 8, bias=False)
    model.embed_tokens = torch.nn.Embedding(100, 8)
    model.experts = torch.nn.ModuleList(torch.nn.Linear(8, 16, bias=False) for _ in range(4))
    model.experts.requires_grad_(False)
    layer = torch.nn.Module()
    layer.feed = torch.nn.Module()
    layer.feed.experts = model.experts
    del model.experts
    model.layer = layer
    shape = {"num_attention_heads": 2, "head_dim": 4, "hidden_size": 8, "num_hidden_layers": 3}
    text = SimpleNamespace(**shape, num_experts_per_tok=1, num_local_experts=4, tie_word_embeddings=False)
    config = SimpleNamespace(get_text_config=lambda: text)
    # Rows of 10 and 30 tokens: a token sees (100 + 900) / 40 = 25 others, half of them masked.
    expected = 4 * 800 + 6 * 64 + 4 * (4 * 128) / 4 + 6 * 3 * 8 * 25
    assert count_flops_per_token(model, config, [10, 30]) == pytest.approx(expected)
