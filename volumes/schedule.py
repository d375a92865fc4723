"""The scheduled evaluation of every promoted model."""

from typing import Any

import modal

from tuneline.configs.cloud import cloud
from tuneline.core.errors import StageFailed
from tuneline.core.terminal import guard_output
from tuneline.volumes.call_errors import explain
from tuneline.volumes.cloud_secrets import require_secrets
from tuneline.volumes.mounts import ENVIRONMENT


def evaluate_on_schedule(evaluate: "modal.Function[Any, Any, Any]") -> None:
    """Call the Function that evaluates every promoted model, with the Secrets that `configs/cloud.yaml` turns on.

    Raises:
        BadRecipe: a Secret does not exist.
        StageFailed: the call reached `schedule.max_cost_usd`, or was lost.
    """
    guard_output()
    try:
        evaluate.with_options(env=ENVIRONMENT, secrets=require_secrets()).remote()
    except modal.exception.FunctionTimeoutError:
        remedy = f"raise schedule.max_cost_usd, now {cloud().schedule.max_cost_usd:g}, in configs/cloud.yaml"
        raise StageFailed(f"the scheduled evaluation was stopped before it could cost more; {remedy}") from None
    except modal.exception.Error as error:
        raise StageFailed(explain("the scheduled evaluation", error)) from None
