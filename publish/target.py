"""What a publish target is: a module of this folder with the functions of `Target`, which say and never do.

A target returns steps, each of which is one request or one file: a dry run prints them, `execution.py` executes and
records them. So what is printed is what is done. Making steps reads no key and asks nobody; only `Step.run` does.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tuneline.configs.hosts import Host
from tuneline.configs.recipe import Recipe
from tuneline.engines.providers import Provider

Values = Mapping[str, str]
"""What earlier steps returned, such as a host's id of the model. They are recorded: never a secret."""
NO_VALUES: Values = {}
FILE = "file "
"""What the names of values begin with that are where a file is; for taking it back."""
VERIFIED = "verified"
"""The value of a step that compared the host's files with ours: what it found, in words."""


@dataclass(frozen=True)
class Publication:
    """A run that goes to one target."""

    run: Path
    recipe: Recipe
    """With the `publish.…` settings of the command line on top."""
    target: str
    settings: Any
    """The target's section of `recipe.publish`; its defaults where the recipe has none."""
    host: Host
    """The target's entry in hosts.yaml."""

    @property
    def folder(self) -> Path:
        """Where files for this target are written: `publish/TARGET` in the run."""
        return self.run / "publish" / self.target


@dataclass(frozen=True)
class Step:
    """One request, or one file that is written."""

    key: str
    """Its name in the record, the same in every publication of a run to this target."""
    shows: str
    """What it does, as in `PUT https://host/path (12 MB)`; a secret is `$NAME_OF_VARIABLE`."""
    content: str
    """SHA-256 of all that it sends (`hash_content`): a step that is recorded with the same content is not repeated."""
    run: Callable[[Values], Values | None]
    """Does it; takes the values of earlier steps, and returns its own. What it raises ends the publication there."""
    body: Any = None
    """JSON or text that it sends or writes, for the dry run; with the same placeholders."""
    repeats: bool = False
    """Whether it is executed every time, as waiting for a model is."""


@dataclass(frozen=True)
class Question:
    """How a published model is asked."""

    provider: Provider
    model: str
    answers_of: str
    """The evaluated target whose answers are its own: `tuned-F16` for an adapter, `tuned-TYPE` for a GGUF file."""
    same_files: bool
    """Whether it computes with the evaluated files; False where the host has another precision."""
    sends_tools: bool = True
    """Whether tools are sent with a request; without them, calls are read from the answer's text."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Sent with each request, such as `extra_headers`."""


class Target(Protocol):
    """A module of this folder, listed in `targets.py`. Only `steps` and `undo_steps` are required."""

    def steps(self, publication: Publication) -> Sequence[Step]:
        """Return what publishes the run, in order.

        Raises:
            BadRecipe: the target's section lacks something. NotFound: the run lacks a stage or a file.
        """
        ...

    def undo_steps(self, publication: Publication, values: Values) -> Sequence[Step]:
        """Return what takes it back, in order; `values` are those of the publication's steps."""
        ...

    def question(self, publication: Publication, values: Values) -> Question | None:
        """Return how the published model is asked, or None (as without this function) where nothing answers."""
        ...

    def cost(self, publication: Publication) -> str:
        """Return what it costs at most; empty (as without this function) where it starts nothing that is paid for.

        With a cost the command requires `--yes`.
        """
        ...


def hash_content(*parts: Any) -> str:
    """Return the SHA-256 of JSON-able parts, such as a request's body and the hashes of its files."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
