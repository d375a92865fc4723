"""Which versions a rollout compares: what the log says of others is no evidence about these.

A name keeps its step when another version is promoted under it, or its target is edited; its numbers begin again.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tuneline.configs.gateway import Route, Target
from tuneline.core.errors import NotFound, TunelineError
from tuneline.endpoints.promotion import engine_name, read_promotion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SideVersion:
    """What answers for one side now."""

    label: str
    engine: str = ""
    """Its name as an engine, which its answers have; empty for what is not promoted."""
    since: datetime | None = None
    """When it was promoted."""


Versions = tuple[SideVersion, SideVersion]
"""Of baseline and candidate."""


class VersionReader:
    """The versions of targets; of a record that cannot be read, as it was last."""

    def __init__(self) -> None:
        self._last: dict[str, SideVersion] = {}

    def read(self, route: Route) -> Versions:
        """Return what a route with a candidate compares now."""
        assert route.candidate
        return self._read(route.baseline), self._read(route.candidate)

    def _read(self, target: Target) -> SideVersion:
        if not target.promoted:
            return SideVersion(target.label)
        try:
            promotion = read_promotion(target.promoted)
            self._last[target.label] = SideVersion(target.label, engine_name(promotion), promotion.current.at)
        except NotFound:
            return SideVersion(target.label)
        except (TunelineError, OSError) as error:
            log.error("%s counts as the version that it was: %s", target.promoted, error)
        return self._last.get(target.label, SideVersion(target.label))


def is_about(versions: Versions, record: Mapping[str, Any]) -> bool:
    """Return whether a request of the log was made of these versions, as far as its line tells."""
    at = _read_moment(record.get("at"))
    if at and any(version.since and at < version.since for version in versions):
        return False
    served = {"baseline": versions[0], "candidate": versions[1]}.get(record.get("served", ""))
    if served is None:
        return True
    answered_by = str(record.get("answered_by", ""))
    is_another = re.fullmatch(rf"{re.escape(served.label)}-\d+", answered_by) and answered_by != served.engine
    return record.get("target", served.label) == served.label and not (served.engine and is_another)


def _read_moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
