"""Which models the page offers, and through which gateway each is asked."""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

from tuneline.core import paths
from tuneline.core.errors import TunelineError
from tuneline.endpoints.gateway.assistant_model import NAME as ASSISTANT
from tuneline.stages.prepare.prepared_run import load_tools
from tuneline.stages.run_artifacts import open_stage
from tuneline.ui.gateway_client import GatewayClient
from tuneline.ui.run_engines import RunEngines

log = logging.getLogger(__name__)

__all__ = ["ASSISTANT", "Catalogue", "Model", "Models"]

Catalogue = list[dict[str, Any]]
HERE = " (run)"
"""Ending of the label of a run on this machine."""


@dataclass(frozen=True)
class Model:
    """A model that can be asked."""

    name: str
    client: GatewayClient
    is_run: bool

    @property
    def label(self) -> str:
        """What it is called on the page; a run and a name of the gateway may be alike."""
        return f"{self.name}{HERE}" if self.is_run else self.name


class Models:
    """The names of the gateway, and the finished runs of this machine."""

    def __init__(self, gateway: GatewayClient | None, runs: GatewayClient | None, engines: RunEngines | None) -> None:
        """`gateway` is the users' own, None if there is none; `runs` serves `engines`."""
        self.gateway, self._runs, self._engines = gateway, runs, engines

    @property
    def watched(self) -> GatewayClient | None:
        """The gateway that Watch shows: the users' own, else the one for runs."""
        return self.gateway or self._runs

    async def list_models(self) -> tuple[list[Model], str]:
        """Return what can be asked, and why the gateway's names are missing if they are."""
        names, problem = [], ""
        if self.gateway:
            try:
                names = await self.gateway.list_models()
            except TunelineError as error:
                problem = str(error)
        models = [Model(name, self.gateway, False) for name in names if self.gateway]
        if self._engines and self._runs:
            runs = await asyncio.to_thread(self._engines.states)
            models += [Model(name, self._runs, True) for name in runs]
        return models, problem

    async def prepare(self, model: Model) -> Catalogue | None:
        """Make a model ready to be asked, and return the tools that it is shown, if it is a run.

        Raises:
            TunelineError: its engine does not start.
        """
        if not model.is_run or self._engines is None:
            return None
        await asyncio.to_thread(self._engines.start, model.name)
        return await asyncio.to_thread(partial(_read_tools, model.name))


def _read_tools(run: str) -> Catalogue | None:
    catalogue = load_tools(open_stage(paths.run_folder(run), "prepare").path)
    return catalogue.openai() if catalogue else None
