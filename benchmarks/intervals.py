"""What evaluation claims, held against simulated models whose true shares are known.

Two models answer the same items; whether they are right has a part of its own, one from the item, and one from the
item's sentence frame (`tie`, `bond`: the shares of the latent variance that the item and the frame decide). Everything
is judged by the code that judges real answers. `TUNELINE_COMPARISONS` (2,000) says how often each setting is drawn.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
from scipy.special import ndtri

from benchmarks.common.rounds import print_result
from tuneline.stages.evaluate.statistics import cluster_bootstrap, interval, items_needed, lower_bound
from tuneline.stages.evaluate.verdicts.task_verdicts import MATTERS, PairedOutcomes, Verdict, compare_tasks

COMPARISONS = int(os.environ.get("TUNELINE_COMPARISONS", "2000"))
CONFIDENCE, ITEMS, TASKS = 0.95, 500, 6
COVERAGE, FALSE_BETTER, POWER = (0.93, 0.97), 0.05, 0.8
RATES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class World:
    """How items hang together."""

    name: str
    per_frame: int = 1
    tie: float = 0.0
    bond: float = 0.0


ALONE = World("items independent, models too")
TIED = World("items independent, models find the same ones hard", tie=0.5)
FRAMES = World("5 items a frame, which decides a fifth", 5, 0.2, 0.2)
HARD = World("10 items a frame, which decides 40 %", 10, 0.2, 0.4)
WORLDS = (ALONE, TIED, FRAMES)


def main() -> None:
    rng, started = np.random.default_rng(20261121), time.monotonic()
    coverage = scores(rng, WORLDS)
    differences = of_differences(rng)
    false = false_better(rng)
    power = found_differences(rng)
    limit = scores(rng, (HARD,))
    drawn = bootstrap(rng)
    families = six_tasks(rng)
    worst = max(false.values())
    met = {
        "coverage": all(COVERAGE[0] <= one <= COVERAGE[1] for one in (*coverage.values(), *differences.values())),
        "false_better": worst <= FALSE_BETTER and families["false"] <= FALSE_BETTER,
        "power": power[ALONE.name] >= POWER,
    }
    more = {
        "comparisons": COMPARISONS,
        "score_coverage": [min(coverage.values()), max(coverage.values())],
        "difference_coverage": [min(differences.values()), max(differences.values())],
        "false_better_at_most": worst,
        "power_500": power[ALONE.name],
        "power_500_one_of_six": families["one"],
        "false_better_any_of_six": families["false"],
        "items_for_80_percent": [needed(1), needed(TASKS)],
        "beyond": {HARD.name: [min(limit.values()), max(limit.values())], "bootstrap": min(drawn.values())},
        "seconds": round(time.monotonic() - started),
    }
    print_result("intervals", worst, FALSE_BETTER, met=all(met.values()), **more, each=met)


def scores(rng: np.random.Generator, worlds: tuple[World, ...]) -> dict[str, float]:
    """How often the interval of a score holds the true share."""
    print("95 % interval of a score holds the true share; one-sided 95 % bound lies above it")
    found = {}
    for world in worlds:
        clusters = frames(world)
        for rate in RATES:
            drawn = [b for _, b in pairs(rng, rate, rate, world)]
            bounds = [interval(one, clusters, CONFIDENCE) for one in drawn]
            found[f"{world.name}, {rate}"] = share(low <= rate <= high for low, high in bounds)
            above = share(lower_bound(one, clusters, CONFIDENCE) > rate for one in drawn)
            print(f"  {world.name:<52} {rate:>5.0%}  {found[f'{world.name}, {rate}']:6.1%}  {above:6.1%}")
    return found


def bootstrap(rng: np.random.Generator) -> dict[str, float]:
    """The same of the percentile bootstrap over frames, which is not used for shares; a tenth as often."""
    print("the bootstrap's interval holds the true share")
    found = {}
    for world in (ALONE, FRAMES, HARD):
        clusters = frames(world)
        for rate in (0.9, 0.99):
            drawn = [b for _, b in pairs(rng, rate, rate, world, max(50, COMPARISONS // 10))]
            bounds = [cluster_bootstrap(one, clusters, CONFIDENCE) for one in drawn]
            found[f"{world.name}, {rate}"] = share(low <= rate <= high for low, high in bounds)
            print(f"  {world.name:<52} {rate:>5.0%}  {found[f'{world.name}, {rate}']:6.1%}")
    return found


def of_differences(rng: np.random.Generator) -> dict[str, float]:
    """How often the interval of a difference holds the true one."""
    print("95 % interval of a difference holds the true one")
    found = {}
    for world in WORLDS:
        for a, b in ((0.5, 0.5), (0.9, 0.8), (0.95, 0.95), (0.96, 0.99), (0.98, 0.98)):
            verdicts = [judged({"one": pair}, world)[0] for pair in pairs(rng, a, b, world)]
            key = f"{world.name}, {a} against {b}"
            found[key] = share(v.low <= b - a <= v.high for v in verdicts)
            print(f"  {world.name:<52} {a:>5.0%} {b:>5.0%}  {found[key]:6.1%}")
    return found


def false_better(rng: np.random.Generator) -> dict[str, float]:
    """How often one of two equal models is called better."""
    print("two equal models, one is called better")
    found = {}
    for world in (*WORLDS, HARD):
        for rate in RATES:
            words = Counter(judged({"one": p}, world)[0].verdict for p in pairs(rng, rate, rate, world))
            found[f"{world.name}, {rate}"] = words["better"] / COMPARISONS
            print(f"  {world.name:<52} {rate:>5.0%}  {words['better'] / COMPARISONS:6.1%}   {dict(words)}")
    return found


def found_differences(rng: np.random.Generator) -> dict[str, float]:
    """How often 1 % errors against 4 % are called better, with 500 items and one task."""
    print(f"1 % errors against 4 %, {ITEMS} items, one task: called better")
    found = {}
    for world in (*WORLDS, HARD):
        words = Counter(judged({"one": p}, world)[0].verdict for p in pairs(rng, 0.96, 0.99, world))
        found[world.name] = words["better"] / COMPARISONS
        print(f"  {world.name:<52} {found[world.name]:6.1%}   {dict(words)}")
    return found


def six_tasks(rng: np.random.Generator) -> dict[str, float]:
    """The price of Holm's correction: the same difference among six tasks, and a false one anywhere among them."""

    def drawn(first: float, rest: float) -> Iterator[list[str]]:
        streams = [pairs(rng, 0.96, first, ALONE), *(pairs(rng, 0.96, rest, ALONE) for _ in range(TASKS - 1))]
        for tasks in zip(*streams, strict=True):
            yield [v.verdict for v in judged({str(i): pair for i, pair in enumerate(tasks)}, ALONE)]

    one = share(words[0] == "better" for words in drawn(0.99, 0.96))
    every = [words.count("better") / TASKS for words in drawn(0.99, 0.99)]
    false = share("better" in words for words in drawn(0.96, 0.96))
    print(f"six tasks: found {one:.1%} if only one differs, {np.mean(every):.1%} of each if all do")
    print(f"six equal tasks: any called better {false:.1%}")
    print(f"items that find it four times in five: {needed(1)} for one task, {needed(TASKS)} for one of six")
    return {"one": one, "every": float(np.mean(every)), "false": false}


def needed(tasks: int) -> int:
    """Items that find 1 % errors against 4 % with the power promised, at Holm's strictest step."""
    return items_needed(MATTERS, 0.04 * 0.99 + 0.01 * 0.96, 1 - (1 - CONFIDENCE) / tasks)


def judged(tasks: dict[str, tuple[list[bool], list[bool]]], world: World) -> tuple[Verdict, ...]:
    clusters = frames(world)
    return compare_tasks("a", "b", {t: PairedOutcomes(a, b, clusters) for t, (a, b) in tasks.items()}, CONFIDENCE).tasks


def pairs(
    rng: np.random.Generator, a: float, b: float, world: World, comparisons: int = COMPARISONS
) -> Iterator[tuple[list[bool], list[bool]]]:
    """Outcomes of two models with these true shares on the same items."""
    shape, shape_of_frames = (ITEMS // world.per_frame, world.per_frame), (ITEMS // world.per_frame, 1)
    draw: Callable[..., np.ndarray] = rng.standard_normal
    own = np.sqrt(1 - world.tie - world.bond)
    for _ in range(comparisons):
        item, frame = draw(shape), draw(shape_of_frames)
        found = []
        for rate in (a, b):
            # Half of what a frame decides is the same for both models.
            of_frame = np.sqrt(world.bond / 2) * (frame + draw(shape_of_frames))
            latent = np.sqrt(world.tie) * item + of_frame + own * draw(shape)
            found.append((latent < ndtri(rate)).ravel().tolist())
        yield found[0], found[1]


def frames(world: World) -> list[str]:
    return [str(i // world.per_frame) for i in range(ITEMS)]


def share(outcomes: Iterator[bool]) -> float:
    return float(np.mean(list(outcomes)))


if __name__ == "__main__":
    main()
