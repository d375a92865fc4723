"""What the rehearsal believes of Modal, asked of Modal itself: the checks that need no hand on the plane."""

from tests.rehearsal.conftest import Cloud
from tests.rehearsal.test_failures import (  # noqa: F401
    test_a_stage_that_is_out_of_memory,
    test_a_stage_that_is_out_of_time,
)
from tests.rehearsal.test_machine import (  # noqa: F401
    test_a_cancelled_call_ends_its_input_and_its_container_if_asked_to,
    test_a_container_that_leaves_is_started_again_then_given_up,
    test_a_queue_gives_in_order,
    test_two_containers_listen_on_one_port,
    test_who_uses_more_than_its_memory_is_killed_and_told_so,
)
from tests.rehearsal.test_rules import (  # noqa: F401
    test_a_dict_writes_only_what_is_absent,
    test_a_volume_shows_what_was_committed_and_loses_what_was_not,
    test_calls_maps_and_spawned_calls,
    test_torchrun_runs_in_a_container,
    test_what_modal_would_refuse_is_refused,
    test_what_raises_is_tried_again,
    test_what_takes_too_long_is_ended,
)


def test_the_line_runs_on_modal(stage: Cloud) -> None:
    """The demo, on CPU; it prints what it costs at most. Exit 3 is the gate's: the line itself is done then too."""
    out = stage.modal("run", "app.py::pipeline", "--recipe", "configs/recipes/demo.yaml", "--run", "live-demo")
    assert "live-demo is finished up to evaluate" in out
    assert "live-demo" in stage.tuneline("runs", "ls", "--modal")
