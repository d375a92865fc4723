"""What the model of a run learned of tools: its catalogue, its preselector, and whether it ever saw a result."""

from dataclasses import dataclass

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.recipe import RECIPE
from tuneline.core import paths
from tuneline.core.errors import NotFound
from tuneline.endpoints.tool_selection import ToolSelector, load_tool_selector
from tuneline.stages.prepare.prepared_run import has_results, load_tools
from tuneline.stages.run_artifacts import open_stage


@dataclass(frozen=True)
class LearnedTools:
    """What a run's model learned of tools."""

    catalogue: Catalogue | None = None
    selector: ToolSelector | None = None
    picks_only: bool = False
    """It never saw a result."""


def read_learned_tools(run: str) -> LearnedTools:
    """Return what a run's model learned of tools. Raises NotFound if there is no such run, or it is not prepared."""
    folder = paths.run_folder(run)
    if not (folder / RECIPE).exists():
        raise NotFound(f"run {run!r}: not in {paths.runs()}; `tuneline runs ls` lists the runs")
    prepared = open_stage(folder, "prepare").path
    return LearnedTools(load_tools(prepared), load_tool_selector(folder), not has_results(prepared))
