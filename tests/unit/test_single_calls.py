"""What a call's end is taken for: only its own end lets another one take over its work."""

from typing import Any

import modal
import pytest

from tuneline.core.errors import StageFailed
from tuneline.volumes.call_outcomes import succeeded
from tuneline.volumes.single_calls import has_died, has_ended


class Call:
    """A call of which `get` raises, or returns, what the client gives."""

    object_id = "fc-1"

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def get(self, timeout: float) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    "outcome, died, ended",
    [
        (TimeoutError(), False, False),
        (modal.exception.RemoteError("cancelled"), True, True),
        (modal.exception.FunctionTimeoutError("its time is over"), True, True),
        (modal.exception.NotFoundError("no such call"), True, True),
        (succeeded(), False, True),
        ({"state": "unfinished", "kind": "", "message": "fc-2"}, False, False),
    ],
)
def test_a_call_has_died_without_an_outcome_and_ended_with_any(outcome: Any, died: bool, ended: bool) -> None:
    call: Any = Call(outcome)
    assert (has_died(call), has_ended(call)) == (died, ended)


@pytest.mark.parametrize(
    "error", [modal.exception.ConnectionError, modal.exception.ServiceError, modal.exception.InternalError]
)
def test_a_modal_that_is_not_reached_says_nothing_of_the_call(error: type[Exception]) -> None:
    for ask in (has_died, has_ended):
        with pytest.raises(StageFailed, match="fc-1"):
            ask(Call(error("no route")))  # type: ignore[arg-type]
