"""Inputs of calls, as containers see them: handed out, retried, finished."""

import asyncio
import contextlib
import time
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.component import Component
from tuneline.rehearsal.state import Container, Input

Result = pb.GenericResult
RETRIED = (Result.GENERIC_STATUS_FAILURE, Result.GENERIC_STATUS_TIMEOUT, Result.GENERIC_STATUS_INTERNAL_FAILURE)
"""modal.com/docs/guide/retries: what raises, times out or loses its container is retried, what is cancelled is not."""
IDLE_S = 60
"""How long a container waits for another input (modal.com/docs/guide/cold-start); `scaledown_window` changes it."""
MAX_LOST_CONTAINERS = 2
"""An input's call fails when more containers than this died with it."""


class Inputs(Component):
    """RPCs of a container's inputs, and their retries."""

    async def FunctionGetInputs(self, request: Any, container_id: str | None) -> pb.FunctionGetInputsResponse:
        """Return the next input, or the order to end: after a single use, after idle time, or when draining."""
        container = self.state.containers[container_id or ""]
        function = container.function
        end_order = pb.FunctionGetInputsResponse(inputs=[pb.FunctionGetInputsItem(kill_switch=True)])
        if container.draining or (container.had_input and function.spec.single_use_containers):
            return end_order
        settings, began = function.spec.autoscaler_settings, time.monotonic()
        container.polling += 1
        try:
            async with function.input_added:
                while not function.waiting:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(function.input_added.wait(), 0.5)
                    idle = time.monotonic() - began > (settings.scaledown_window or IDLE_S)
                    if container.draining or (idle and not container.running and not settings.min_containers):
                        return end_order
                call_input = function.waiting.popleft()
        finally:
            container.polling -= 1
        call_input.container, container.had_input = container.id, True
        container.running.add(call_input.id)
        self.watch(call_input, container)
        item = pb.FunctionGetInputsItem(
            input_id=call_input.id,
            input=call_input.message,
            function_call_id=call_input.call.id,
            retry_count=call_input.retry,
            function_map_idx=call_input.index,
            function_call_invocation_type=pb.FUNCTION_CALL_INVOCATION_TYPE_SYNC,
        )
        return pb.FunctionGetInputsResponse(inputs=[item])

    async def FunctionPutOutputs(self, request: Any, container_id: str | None) -> Empty:
        for output in request.outputs:
            call_input = self.state.inputs[output.input_id]
            self.state.containers[container_id or ""].running.discard(call_input.id)
            if (
                output.retry_count == call_input.retry and not call_input.done
            ):  # else it is the result of an abandoned try
                await self.handle_result(call_input, output.result, output.data_format)
        return Empty()

    async def handle_result(
        self, call_input: Input, result: pb.GenericResult, data_format: Any = pb.DATA_FORMAT_PICKLE
    ) -> None:
        """Finish an input with its result, or retry it if its result and the retry policy allow that."""
        if call_input.container in self.state.containers:
            self.state.containers[call_input.container].running.discard(call_input.id)
        policy = call_input.call.function.spec.retry_policy
        if result.status in RETRIED and call_input.retry < policy.retries:
            wait_ms = policy.initial_delay_ms * (policy.backoff_coefficient or 1) ** call_input.retry
            call_input.retry, call_input.container = call_input.retry + 1, None
            self.schedule(min(wait_ms, policy.max_delay_ms or 60_000) / 1000, self.enqueue(call_input))
            return
        await self.finish_input(call_input, result, data_format)

    async def handle_lost_container(self, call_input: Input, reason: str) -> None:
        """Restart an input whose container died, which counts as no retry; fail it after MAX_LOST_CONTAINERS.

        modal.com/docs/guide/retries, "Container crashes"; Modal does not document when it gives up.
        """
        call_input.lost += 1
        if call_input.lost <= MAX_LOST_CONTAINERS:
            await self.restart_input(call_input)
            return
        exception = f"the container was lost {call_input.lost} times: {reason}"
        await self.finish_input(call_input, Result(status=Result.GENERIC_STATUS_INTERNAL_FAILURE, exception=exception))

    async def restart_input(self, call_input: Input) -> None:
        """Give the same input to another container (modal.com/docs/guide/preemption)."""
        call_input.container = None
        await self.enqueue(call_input)

    async def finish_input(
        self, call_input: Input, result: pb.GenericResult, data_format: Any = pb.DATA_FORMAT_PICKLE
    ) -> None:
        """Record the final result of an input and notify the client."""
        if call_input.done:
            return
        call_input.done = True
        call_input.call.outputs.append(
            pb.FunctionGetOutputsItem(
                result=result,
                idx=call_input.index,
                input_id=call_input.id,
                data_format=data_format,
                task_id=call_input.container or "",
                retry_count=call_input.retry,
            )
        )
        self.state.notify()

    async def enqueue(self, call_input: Input) -> None:
        """Queue an input for a container that waits, or start a container."""
        function = call_input.call.function
        async with function.input_added:
            function.waiting.append(call_input)
            function.input_added.notify_all()
        self.scale_up(function)

    def watch(self, call_input: Input, container: Container) -> None:
        """Fail an input that runs longer than the function's timeout (modal.com/docs/guide/timeouts)."""
        seconds, retry = call_input.call.function.spec.timeout_secs, call_input.retry

        async def time_out() -> None:
            if not call_input.done and call_input.retry == retry and call_input.container == container.id:
                status = Result.GENERIC_STATUS_TIMEOUT
                await self.handle_result(
                    call_input, Result(status=status, exception=f"input ran longer than its {seconds} s")
                )
                await self.kill(container, "timeout", grace=1)

        if seconds:
            self.schedule(seconds, time_out())
