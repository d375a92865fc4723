"""A configuration of another trainer while it is migrated: which keys were carried over, and which were not."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneline.configs.known_keys import NOT_NEEDED
from tuneline.core.errors import BadRequest
from tuneline.stages.train.model.adapter_targets import DENSE_MODULES, SAVED_MODULES

KEPT_NAME = 60
"""Characters of a value that a note shows."""


@dataclass(frozen=True)
class Note:
    """What became of one key."""

    line: int | None
    """The line of the configuration; None for a default that is not written there."""
    key: str
    text: str

    def format(self, file: Path) -> str:
        """Return it as a line that names the file and the line."""
        return f"{file}:{self.line}: {self.key}: {self.text}" if self.line else f"{file}: {self.key}: {self.text}"


@dataclass
class Migration:
    """The recipe that is made of a configuration, and what became of each of its keys."""

    file: Path
    values: dict[str, Any]
    """The configuration's own keys, by their first level."""
    lines: dict[str, int]
    recipe: dict[str, Any] = field(default_factory=dict)
    carried: list[Note] = field(default_factory=list)
    lost: list[Note] = field(default_factory=list)
    """Not carried over, although it may change the model."""
    unneeded: list[Note] = field(default_factory=list)
    """Of no use here: a log, a precision, an output folder."""
    downloads: list[tuple[str, str]] = field(default_factory=list)
    """(dataset of the hub, folder) that the recipe names and that must be fetched."""
    _seen: set[str] = field(default_factory=set)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, which the caller then carries, loses or skips."""
        value = self.values.get(key)
        return default if value is None else value

    def read_number(self, key: str) -> float | None:
        """Return a number, or None if the key is not there.

        Raises:
            BadRequest: it is something else.
        """
        value = self.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadRequest(f"{self.file}:{self.lines.get(key, 1)}: {key}: {_shorten(value)}: not a number")
        return value

    def read_names(self, key: str) -> list[str]:
        """Return the texts of a list, or a single text as a list of it; an empty one if the key is not there.

        Raises:
            BadRequest: there is something else among them.
        """
        value = self.get(key, [])
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) for name in names):
            raise BadRequest(f"{self.file}:{self.lines.get(key, 1)}: {key}: {_shorten(value)}: not a list of names")
        return names

    def find_beside(self, place: str) -> Path | None:
        """Return the file or folder of that name beside the configuration, or None; any text may be asked for."""
        path = self.file.parent / place
        try:
            return path if path.exists() else None
        except (OSError, ValueError):  # longer than a name can be, or with a character that none has
            return None

    def carry(self, key: str, setting: str, value: Any) -> None:
        """Set `setting` (`train.rank`) of the recipe from a key."""
        place: dict[str, Any] = self.recipe
        *sections, name = setting.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
        self._note(self.carried, key, f"{setting}: {_shorten(value)}")

    def lose(self, key: str, why: str) -> None:
        """Record that a key could not be carried over although it may change the model."""
        self._note(self.lost, key, f"{_shorten(self.values.get(key))}: {why}")

    def skip(self, key: str, why: str) -> None:
        """Record that a key has no use here."""
        self._note(self.unneeded, key, why)

    def _note(self, notes: list[Note], key: str, text: str) -> None:
        self._seen.add(key)
        notes.append(Note(self.lines.get(key), key, text))

    def carry_renamed(self, names: dict[str, str]) -> None:
        """Carry keys that are settings of ours under another name, with the same value."""
        for key, setting in names.items():
            if self.get(key) is not None:
                self.carry(key, setting, self.values[key])

    def finish(self, unneeded: dict[str, str]) -> None:
        """Account for every key that was not looked at, but for those that state nothing: `false`, an empty value."""
        for key, value in self.values.items():
            if key in self._seen or value in (None, False, "", [], {}):
                continue
            prefix = next((start for start in unneeded if start.endswith("_") and key.startswith(start)), key)
            if reason := unneeded.get(prefix) or NOT_NEEDED.get(key):
                self.skip(key, reason)
            else:
                self.lose(key, "no such setting here")

    def carry_targets(self, key: str, modules: list[str]) -> None:
        """Carry PEFT's module names as target groups, and say where a group is wider than what was named."""
        names = {name.rpartition(".")[2] for name in modules}
        groups = [group for group, members in DENSE_MODULES.items() if names & set(members)]
        known = {name for members in DENSE_MODULES.values() for name in members}
        if groups:
            self.carry(key, "train.targets", groups)
            wider = sorted({name for group in groups for name in DENSE_MODULES[group]} - names)
            if wider:
                self.lose(key, f"a group is adapted as a whole: {', '.join(wider)} too")
        if others := sorted(names - known):
            self.lose(key, f"{', '.join(others)}: only {', '.join(sorted(known))} have a name here")

    def carry_warmup(self) -> None:
        """Carry `warmup_steps`, or a share of the steps where their number is stated."""
        steps, most = self.get("warmup_steps"), self.get("max_steps")
        key = "warmup_steps" if steps is not None else "warmup_ratio"
        share = steps if isinstance(steps, float) else self.get("warmup_ratio")
        if isinstance(steps, int):
            self.carry(key, "train.warmup_steps", steps)
        elif isinstance(share, int | float) and isinstance(most, int) and most > 0:
            self.carry(key, "train.warmup_steps", round(share * most))
        elif share:
            self.lose(key, "a share of the steps, whose number is not stated; set train.warmup_steps")

    def carry_saved_modules(self, key: str, modules: list[str]) -> None:
        """Carry `modules_to_save`."""
        names = {module: name for name, module in SAVED_MODULES.items()}
        if known := [names[module] for module in modules if module in names]:
            self.carry(key, "train.modules_to_save", known)
        if others := [module for module in modules if module not in names]:
            self.lose(key, f"{', '.join(others)}: only {', '.join(names)} can be trained fully")

    def carry_schedule(self, key: str, name: str) -> None:
        """Carry a schedule of the learning rate by its name in transformers."""
        known = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
        known["cosine_with_min_lr"] = "cosine"
        if name in known:
            self.carry(key, "train.schedule", known[name])
        else:
            self.lose(key, "cosine, linear or constant; cosine is used")

    def carry_optimizer(self, key: str, name: str) -> None:
        """Skip AdamW, which is what trains here, and lose any other optimizer."""
        if "adamw" in name:
            self.skip(key, "AdamW trains, in the form that fits the hardware")
        else:
            self.lose(key, "AdamW is used")

    def carry_dataset(self, key: str, place: str, source: dict[str, Any]) -> dict[str, Any]:
        """Return a source for a dataset: a file or folder here, else the folder that it is to be downloaded to."""
        if local := self.find_beside(place):
            return {"path": str(local.absolute())} | source
        folder = f"datasets/{place.replace('/', '--')}"
        self.downloads.append((place, folder))
        return {"path": folder} | source


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= KEPT_NAME else f"{text[:KEPT_NAME]}…"
