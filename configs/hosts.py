"""What the hosts of models take: the schema and reader of `hosts.yaml`, and a recipe held against its rules.

Rules are checked with nothing but the recipe, before anything is trained or uploaded.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from tuneline.configs.models import registry
from tuneline.configs.publish import list_targets
from tuneline.configs.recipe import Recipe
from tuneline.configs.section import StrictModel, explain_first
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.environment import read_variable
from tuneline.core.errors import BadRecipe

FILE = Path(__file__).parent / "hosts.yaml"
OVERRIDES = "TUNELINE_HOSTS"
"""Environment variable with a YAML file whose hosts' keys replace the shipped ones."""
Fact = Literal["rank", "targets", "modules_to_save", "method", "base", "licence", "billions", "forms", "tier"]
SETTINGS: dict[Fact, str] = {
    **{fact: f"train.{fact}" for fact in ("rank", "targets", "modules_to_save", "method")},
    **{fact: "base" for fact in ("base", "licence", "billions")},
    "forms": "publish.{target}",
    "tier": "publish.{target}.tier",
}
"""The setting of a recipe that decides a fact, for messages."""


class Rule(StrictModel):
    """What a host takes, in one respect. A fact that is unknown breaks a rule only if the rule says `known`."""

    about: Fact
    at_least: float | None = None
    at_most: float | None = None
    among: tuple[str, ...] | None = None
    """Every value must be one of these."""
    without: tuple[str, ...] = ()
    """No value may be one of these."""
    known: bool = False
    """Whether the fact must be known."""
    reason: str = ""
    """What else a user should know; ends the message."""
    source: str = Field(pattern="^https://")
    """The page it was read on."""
    read: date


class Host(StrictModel):
    """A host, or a program that serves models."""

    title: str
    api: str = ""
    """Its API's address, without a slash at its end; empty where nothing is asked."""
    chat: str = ""
    """The address of its OpenAI API."""
    key_variable: str | None = None
    """Environment variable with the key."""
    rules: tuple[Rule, ...] = ()
    bases: dict[str, str] = {}
    """Hub id → the host's own name of a base, where it has one."""
    usd_per_hour: dict[str, float] = {}
    """Price of an hour of each hardware that a publication may start."""
    prices: str = ""
    """The page of the prices, and when it was read."""


class Hosts(StrictModel):
    """The whole of hosts.yaml."""

    hosts: dict[str, Host]


def find_host(target: str) -> Host:
    """Return a target's host; one without an entry, such as files that are written here, has no rules.

    Raises:
        BadRecipe: hosts.yaml, or the file of `TUNELINE_HOSTS`, is wrong.
    """
    return _all_hosts().hosts.get(target) or Host(title=target)


def refuse_unpublishable(recipe: Recipe) -> None:
    """Check a recipe against the rules of every target in its `publish` section.

    Raises:
        BadRecipe: a host does not take its model; each broken rule is a line.
    """
    broken = [line for target in list_targets(recipe.publish) for line in find_obstacles(recipe, target)]
    if broken:
        raise BadRecipe("\n".join(broken))


def find_obstacles(recipe: Recipe, target: str) -> Iterator[str]:
    """Yield why a recipe's model cannot go to a target: files that are not made, and each rule of the host it breaks.

    A broken rule is given with setting, value, what is taken, source and date.
    """
    section = getattr(recipe.publish, target, None)
    key, forms = "forms", getattr(section, "forms", ())
    if section is not None and hasattr(section, "form"):  # containers, which serve one
        key, forms = "form", (section.form or recipe.serve.form,)
    if "adapter" in forms and recipe.train.method == "full":
        yield f"publish.{target}.{key}: adapter: train.method is full, which makes none"
    if "merged" in forms and recipe.convert.format != "safetensors":
        yield f"publish.{target}.{key}: merged: write `convert: {{format: safetensors}}`, which makes it"
    if key == "form" and "adapter" in forms and recipe.train.modules_to_save:
        yield f"publish.{target}.form: adapter: vLLM serves none with train.modules_to_save: publish it merged"
    kind = getattr(section, "type", None)
    if kind and "gguf" in (*forms, *(("gguf",) if target == "ollama" else ())) and kind not in recipe.convert.types:
        yield f"publish.{target}.type: {kind}: not among convert.types, {', '.join(recipe.convert.types)}"
    host = find_host(target)
    if host.bases and section is not None and find_base_name(recipe, target) is None:
        known = ", ".join(host.bases)
        yield f"publish.{target}.base: {recipe.base}: state what {host.title} calls it; known are the names of {known}"
    yield from _find_broken_rules(recipe, target)


def find_base_name(recipe: Recipe, target: str) -> str | None:
    """Return what a target's host calls the recipe's base: `base` of its section, else that of hosts.yaml, or None."""
    stated = getattr(getattr(recipe.publish, target, None), "base", None)
    return stated or find_host(target).bases.get(_hub_id(recipe))


def _hub_id(recipe: Recipe) -> str:
    models = registry()
    key = models.find(recipe.base)
    return (models.models[key].hub if key else None) or recipe.base


def find_closed_hosts(recipe: Recipe) -> Iterator[str]:
    """Yield which hosts would refuse the adapter for its rank, whether or not the recipe is to be published there."""
    if recipe.train.method != "full":
        for target in _all_hosts().hosts:
            for line in _find_broken_rules(recipe, target, ("rank",)):
                yield f"publish: {target}: {line}"


def _find_broken_rules(recipe: Recipe, target: str, about: Sequence[Fact] = get_args(Fact)) -> Iterator[str]:
    host = find_host(target)
    for rule in (rule for rule in host.rules if rule.about in about):
        values = _facts(recipe, target)[rule.about]
        if (allowed := _explain_break(rule, values)) is not None:
            setting = SETTINGS[rule.about].format(target=target)
            shown = ", ".join(map(str, values)) or "unknown"
            fact = "" if setting.endswith(rule.about) else f"{rule.about} "
            reason = f"; {rule.reason}" if rule.reason else ""
            yield f"{setting}: {fact}{shown}: {host.title} takes {allowed}{reason} ({rule.source}, {rule.read})"


def _explain_break(rule: Rule, values: tuple[Any, ...]) -> str | None:
    """Return what the rule allows if `values` break it, else None."""
    if rule.known and not values:
        return "known ones only"
    numbers = [value for value in values if isinstance(value, int | float)]
    low, high = rule.at_least, rule.at_most
    if any((low is not None and n < low) or (high is not None and n > high) for n in numbers):
        return " and ".join(f"{w} {n:g}" for w, n in (("at least", low), ("at most", high)) if n is not None)
    if rule.among is not None and not set(map(str, values)) <= set(rule.among):
        return f"only {', '.join(rule.among)}" if rule.among else "none"
    return f"all but {', '.join(rule.without)}" if set(map(str, values)) & set(rule.without) else None


def _facts(recipe: Recipe, target: str) -> Mapping[Fact, tuple[Any, ...]]:
    """Return what rules are about; an unknown fact is empty."""
    models = registry()
    model = models.models[key] if (key := models.find(recipe.base)) else None
    settings = getattr(recipe.publish, target, None)
    train, has_adapter = recipe.train, recipe.train.method != "full"
    return {
        "rank": (train.rank,) if has_adapter else (),
        "targets": train.targets if has_adapter else (),
        "modules_to_save": train.modules_to_save,
        "method": (train.method,),
        "base": (_hub_id(recipe),),
        "licence": (model.licence,) if model else (),
        "billions": (round(models.shapes[model.shape].total / 1e9, 2),) if model else (),
        "forms": tuple(getattr(settings, "forms", ())),
        "tier": tuple(filter(None, [getattr(settings, "tier", None)])),
    }


def read_hosts(overrides: Path) -> Hosts:
    """Return the shipped hosts, with the keys of a user's file in place of theirs.

    Raises:
        BadRecipe: the file is no YAML, or a key or value is wrong.
    """
    raw = read_yaml(overrides, BadRecipe)
    own = raw.get("hosts") if isinstance(raw, dict) else None
    if not isinstance(own, dict) or not all(isinstance(host, dict) for host in own.values()):
        raise BadRecipe(f"{overrides}: hosts: a mapping of hosts by target is expected, as in {FILE}")
    shipped = read_yaml(FILE, BadRecipe)
    hosts = {name: shipped["hosts"].get(name, {}) | host for name, host in own.items()}
    return _check({"hosts": shipped["hosts"] | hosts}, overrides)


def _all_hosts() -> Hosts:
    file = read_variable(OVERRIDES)
    return read_hosts(Path(file)) if file else _shipped_hosts()


@cache
def _shipped_hosts() -> Hosts:
    return _check(read_yaml(FILE, BadRecipe), FILE)


def _check(raw: Any, file: Path) -> Hosts:
    try:
        return Hosts.model_validate(raw)
    except ValidationError as error:
        raise BadRecipe(f"{file}: {explain_first(error)}") from None
