"""Training before it starts: on which GPUs it fits and how, how long it takes, and what that costs where."""

import dataclasses
import math
from dataclasses import dataclass

from tuneline.configs.hardware import Range, hardware
from tuneline.configs.models import Shape
from tuneline.configs.recipe import Recipe
from tuneline.stages.plan.dataset_size import Rows
from tuneline.stages.plan.memory import Parts, Work, peak, trainable

COUNTS = (1, 2, 4, 8)
ROWS = (8, 4, 2, 1)
"""At a time on one GPU: the most that fits, unless the recipe says otherwise."""
PADDED = (1.0, 1.2)
"""Tokens worked on, of those in rows: rows of like length are put together."""


@dataclass(frozen=True)
class Cost:
    """At one provider, for one way to train."""

    provider: str
    usd: Range
    as_of: str
    verified: bool


@dataclass(frozen=True)
class Way:
    """One kind and count of GPUs that holds the training."""

    gpu: str
    count: int
    how: str
    """`one GPU`, `DDP` or `FSDP2`; `CPU`."""
    rows: int
    """At a time on one GPU."""
    memory: Parts
    hours: Range | None
    tokens_per_second: Range
    costs: tuple[Cost, ...] = ()
    asked: bool = False
    """Whether it is what the recipe's compute.train says."""

    @property
    def usd(self) -> float:
        """Of the cheapest provider, in the middle; what ways are sorted by."""
        return min((sum(cost.usd) / 2 for cost in self.costs), default=math.inf)


@dataclass(frozen=True)
class Training:
    """Steps, tokens, and every way that fits."""

    parameters_trained: int
    parameters_total: int
    parameters_active: int
    rows: Rows
    steps: int | None
    epochs: float | None
    tokens: Range | None
    ways: tuple[Way, ...]
    """The cheapest first."""


def training(recipe: Recipe, shape: Shape, rows: Rows) -> Training:
    """From the recipe alone; nothing is looked at but small files."""
    steps, epochs = _steps(recipe, rows)
    tokens = _tokens(recipe, steps, rows)
    ways = [_way(recipe, shape, tokens, *found) for found in _fitting(recipe, shape, rows.learned)]
    return Training(
        parameters_trained=trainable(shape, work_of(recipe)),
        parameters_total=shape.total,
        parameters_active=shape.active,
        rows=rows,
        steps=steps,
        epochs=epochs,
        tokens=tokens,
        ways=tuple(sorted(ways, key=lambda way: (way.usd, way.count))),
    )


def way_on_cpu(recipe: Recipe, shape: Shape, rows: Rows) -> Way:
    """The training on this machine's CPU, whatever the recipe would hire."""
    steps, _ = _steps(recipe, rows)
    return _way(recipe, shape, _tokens(recipe, steps, rows), "CPU", 0, *on_cpu(recipe, shape, rows.learned))


def work_of(recipe: Recipe, learned: float = 1.0) -> Work:
    """What memory depends on, of one row at a time on one GPU; `learned` is the share of its tokens that is."""
    train = recipe.train.model_dump()
    return Work(
        method=train["method"],
        rank=train["rank"],
        targets=frozenset(train["targets"]),
        saved=frozenset(train.get("modules_to_save", ())),
        tokens=recipe.data.max_tokens,
        learned=1.0 if train["packing"] else learned,
    )


def placed(recipe: Recipe, shape: Shape, kind: str, count: int, learned: float = 1.0) -> tuple[Work, Parts] | None:
    """The training on `count` GPUs of a kind, with as many rows at a time as fit; None if not even one does.

    DDP where the model fits one GPU, FSDP2 where it does not, unless the recipe's compute.strategy says which.
    """
    if not hardware().chips[kind].bf16:
        return None
    return placed_in(recipe, shape, hardware().usable_bytes(kind), count, learned)


def placed_in(recipe: Recipe, shape: Shape, fits: float, count: int, learned: float = 1.0) -> tuple[Work, Parts] | None:
    """The same on GPUs that offer so many bytes each."""
    shared = {"auto": (False, True), "ddp": (False,), "fsdp2": (True,)}[recipe.compute.strategy]
    for sharded in shared if count > 1 else (False,):
        for rows in _row_counts(recipe, count):
            work = dataclasses.replace(work_of(recipe, learned), rows=rows, gpus=count, sharded=sharded)
            parts = peak(shape, work)
            if parts.total <= fits:
                return work, parts
    return None


def least(recipe: Recipe, shape: Shape, count: int, learned: float = 1.0) -> Parts:
    """Memory of one of `count` GPUs when it holds as little as can be."""
    rows, sharded = recipe.compute.micro_batch_rows or 1, count > 1 and recipe.compute.strategy != "ddp"
    return peak(shape, dataclasses.replace(work_of(recipe, learned), rows=rows, gpus=count, sharded=sharded))


def on_cpu(recipe: Recipe, shape: Shape, learned: float = 1.0) -> tuple[Work, Parts]:
    """The training on the CPU, in 32 bit, all rows of a batch at a time."""
    rows, gpu = recipe.compute.micro_batch_rows or recipe.train.batch_rows, work_of(recipe, learned)
    kept = ("method", "rank", "targets", "saved", "tokens", "learned")
    work = Work.on_the_cpu(
        rows=rows, masked=rows > 1 or recipe.train.packing, **{name: getattr(gpu, name) for name in kept}
    )
    return work, peak(shape, work)


def flops_a_token(shape: Shape, work: Work) -> float:
    """Of a step, without recomputation: 4 a frozen parameter that a token meets, 6 a trained one, and attention's."""
    met = shape.active - shape.vocabulary * shape.hidden * (0 if shape.tied else 1)  # input embeddings are looked up
    attention = 6 * shape.layers * shape.heads * shape.head_dim * work.tokens / 2
    if work.method == "full":
        return 6 * met + 2 * attention
    return 4 * met + 6 * trainable(shape, work) + 2 * attention


def combined(*ranges: Range) -> Range:
    """The product of ranges that know nothing of each other: their widths add as errors do, not end to end."""
    middle = math.prod(math.sqrt(low * high) for low, high in ranges)
    width = math.exp(math.sqrt(sum((math.log(high / low) / 2) ** 2 for low, high in ranges)))
    return middle / width, middle * width


def _steps(recipe: Recipe, rows: Rows) -> tuple[int | None, float | None]:
    train = recipe.train
    an_epoch = None if rows.train is None else math.ceil(rows.train / train.batch_rows)
    steps = train.max_steps or (None if an_epoch is None else math.ceil(train.epochs * an_epoch))
    return steps, None if steps is None or not rows.train else steps * train.batch_rows / rows.train


def _tokens(recipe: Recipe, steps: int | None, rows: Rows) -> Range | None:
    seen = None if steps is None else steps * recipe.train.batch_rows
    return None if seen is None else combined((seen, seen), rows.tokens, PADDED)


def _row_counts(recipe: Recipe, gpus: int) -> list[int]:
    if asked := recipe.compute.micro_batch_rows:
        return [asked]
    each = max(1, recipe.train.batch_rows // gpus)
    return [rows for rows in ROWS if each % rows == 0]


def _fitting(recipe: Recipe, shape: Shape, learned: float) -> list[tuple[str, int, Work, Parts]]:
    """Of each kind the fewest that hold it, and what the recipe asks for; the CPU where it asks for none."""
    asked = hardware().parse_gpu(recipe.compute.train.gpu) if recipe.compute.train.gpu else None
    found = [("CPU", 0, *on_cpu(recipe, shape, learned))] if asked is None else []
    for kind in hardware().chips:
        for count in COUNTS:
            if placing := placed(recipe, shape, kind, count, learned):
                found.append((kind, count, *placing))
                break
    if asked and asked not in [(kind, count) for kind, count, _, _ in found]:
        found += [(*asked, *placing)] if (placing := placed(recipe, shape, *asked, learned)) else []
    return found


def _way(recipe: Recipe, shape: Shape, tokens: Range | None, kind: str, count: int, work: Work, parts: Parts) -> Way:
    speed = _speed(recipe, shape, kind, count, work)
    hours = None
    if tokens:
        before = _before(shape, count)
        working = combined(tokens, (1 / speed[1] / 3600, 1 / speed[0] / 3600))
        hours = (working[0] + before[0], working[1] + before[1])
    how = "CPU" if not count else "one GPU" if count == 1 else "FSDP2" if work.sharded else "DDP"
    costs = _costs(recipe, kind, count, hours) if hours else ()
    asked = hardware().parse_gpu(recipe.compute.train.gpu) if recipe.compute.train.gpu else ("CPU", 0)
    return Way(kind, count, how, work.rows, parts, hours, speed, costs, asked=asked == (kind, count))


def _speed(recipe: Recipe, shape: Shape, kind: str, count: int, work: Work) -> Range:
    """Tokens a second, lowest and highest."""
    speed = hardware().speed
    if not count:
        cores = recipe.compute.threads or recipe.compute.train.cores
        low, high = (cores * 1e9 * each for each in speed.cpu_gflops_per_core)
        return low / flops_a_token(shape, work), high / flops_a_token(shape, work)
    whole = count * hardware().chips[kind].tflops * 1e12 / flops_a_token(shape, work)
    sparse, together = speed.experts if shape.experts else (1.0, 1.0), speed.gpus if count > 1 else (1.0, 1.0)
    return combined((whole, whole), getattr(speed, work.method), sparse, together)


def _before(shape: Shape, count: int) -> Range:
    """Hours until the first step: a machine, and 16-bit weights read."""
    speed = hardware().speed
    if not count:
        return 0.0, 0.0
    low, high = (2 * shape.text / 1e9 / each for each in reversed(speed.load_gb_per_second))
    return speed.wait_minutes[0] / 60 + low / 3600, speed.wait_minutes[1] / 60 + high / 3600


def _costs(recipe: Recipe, kind: str, count: int, hours: Range) -> tuple[Cost, ...]:
    """At every provider that has it, the cheapest first."""
    table, asked, costs = hardware(), recipe.compute.train, list[Cost]()
    if not count or (kind in table.gpus and count <= table.gpus[kind].most):
        an_hour = 3600 * table.usd_per_second(f"{kind}:{count}" if count else None, asked.cores, asked.memory_gib)
        costs.append(Cost("modal", (hours[0] * an_hour, hours[1] * an_hour), str(table.as_of), verified=True))
    for name, there in table.elsewhere.items():
        if kind in there.usd_per_hour:
            rented = max(count, there.only.get(kind, 0))
            usd = combined(hours, there.usd_per_hour[kind], (rented, rented))
            costs.append(Cost(name, usd, str(there.as_of), there.verified))
    for name, flat in table.flat.items():
        if kind in flat.hours and count == 1:
            months = math.ceil(hours[0] / flat.hours[kind][1]), math.ceil(hours[1] / flat.hours[kind][0])
            usd = (months[0] * flat.usd_per_month, months[1] * flat.usd_per_month)
            costs.append(Cost(name, usd, str(flat.as_of), flat.verified))
    return tuple(sorted(costs, key=lambda cost: sum(cost.usd)))
