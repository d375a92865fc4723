"""What every tab of one opened page knows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tuneline.ui.access import Session
from tuneline.ui.answering import Answering
from tuneline.ui.conversation import ConversationStore
from tuneline.ui.models import Model, Models
from tuneline.ui.run_sources import RunSources
from tuneline.ui.watch_feed import WatchFeed


@dataclass
class PageContext:
    """One opened page."""

    session: Session
    models: Models
    answering: Answering
    store: ConversationStore
    runs: RunSources
    feed: WatchFeed
    describe_votes: Callable[[Path], str]
    """Return the command that reads a file of votes."""
    offered: list[Model] = field(default_factory=list)
    """As of the last look."""
    gateway_problem: str = "waiting for the gateway's models …"
    """Why the gateway's names are missing; empty if they are not."""
    on_models: list[Callable[[], None]] = field(default_factory=list)
    """Called when `offered` changed."""
    _is_looking: bool = False

    def find_model(self, label: str) -> Model | None:
        """Return the offered model with this label, or None."""
        return next((model for model in self.offered if model.label == label), None)

    async def refresh_models(self) -> None:
        """Ask which models there are, unless that is being asked."""
        if self._is_looking:
            return
        self._is_looking = True
        try:
            offered, problem = await self.models.list_models()
        finally:
            self._is_looking = False
        if problem:  # what was chosen stays chosen while a gateway is away for a moment
            offered = [*(model for model in self.offered if not model.is_run), *offered]
        if (offered, problem) != (self.offered, self.gateway_problem):
            self.offered, self.gateway_problem = offered, problem
            for update in self.on_models:
                update()
