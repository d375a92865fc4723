"""Limits of functions that Modal enforces and its client does not check.

Sources: modal.com/docs/guide/gpu (kinds, at most 8, of A10 at most 4), /guide/timeouts (24 hours), /guide/cron,
/guide/preemption (nonpreemptible is for CPU only), /guide/resources (disk up to 3 TiB).
"""

from modal_proto import api_pb2 as pb
from pydantic import ValidationError

from tuneline.configs.cloud import Schedule
from tuneline.configs.hardware import hardware
from tuneline.core.errors import BadRecipe
from tuneline.rehearsal.errors import invalid

MAX_DISK_MIB = 3 * 1024 * 1024


def check_limits(function: pb.Function, data: pb.FunctionData | None = None) -> None:
    """Refuse a function that Modal would not run.

    Raises:
        GRPCError: INVALID_ARGUMENT, with the reason.
    """
    resources = function.resources
    if gpu := resources.gpu_config.gpu_type:
        try:
            hardware().parse_gpu(f"{gpu}:{resources.gpu_config.count or 1}")
        except BadRecipe as error:
            raise invalid(f"{function.function_name}: {error}") from None
    max_timeout_s = int(3600 * hardware().longest_call_hours)
    if function.timeout_secs > max_timeout_s:
        raise invalid(f"{function.function_name}: timeout {function.timeout_secs} s: at most {max_timeout_s}")
    if resources.ephemeral_disk_mb > MAX_DISK_MIB:
        raise invalid(f"{function.function_name}: ephemeral_disk {resources.ephemeral_disk_mb}: at most {MAX_DISK_MIB}")
    if gpu and function.scheduler_placement.nonpreemptible:
        raise invalid(f"{function.function_name}: nonpreemptible is not to be had with a GPU")
    if data and (cron := data.schedule.cron.cron_string):
        try:
            Schedule(cron=cron)
        except ValidationError as error:
            raise invalid(f"{function.function_name}: schedule: {error.errors()[0]['msg']}") from None
