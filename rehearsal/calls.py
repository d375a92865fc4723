"""Calls: inputs in, outputs out, retries between, on the client's side and on the container's."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.errors import not_found
from tuneline.rehearsal.objects import Call, Container, Function, Input
from tuneline.rehearsal.part import Part

Result = pb.GenericResult
RETRIED = (Result.GENERIC_STATUS_FAILURE, Result.GENERIC_STATUS_TIMEOUT, Result.GENERIC_STATUS_INTERNAL_FAILURE)
"""modal.com/docs/guide/retries: what raises, times out or loses its container is tried again; not what is cancelled."""

IDLE_S = 60
"""How long a container waits for another input (modal.com/docs/guide/cold-start); `scaledown_window` changes it."""
LOST = 2
"""So often an input's container may die before the call fails."""
STREAM_S = 50.0


class Calls(Part):
    """RPCs of function calls."""

    # What the client does.

    async def FunctionMap(self, request: Any, container: str | None) -> pb.FunctionMapResponse:
        function = self.state.functions.get(request.function_id)
        if function is None:
            raise not_found(f"function {request.function_id}")
        call = self.new_call(function, request.function_call_type)
        items = [await self.put_input(call, item) for item in request.pipelined_inputs]
        return pb.FunctionMapResponse(
            function_call_id=call.id,
            pipelined_inputs=items,
            retry_policy=function.spec.retry_policy,
            function_call_jwt=call.id,
            max_inputs_outstanding=1000,
        )

    async def FunctionPutInputs(self, request: Any, container: str | None) -> pb.FunctionPutInputsResponse:
        call = self._call(request.function_call_id)
        return pb.FunctionPutInputsResponse(inputs=[await self.put_input(call, item) for item in request.inputs])

    async def FunctionFinishInputs(self, request: Any, container: str | None) -> Empty:
        return Empty()

    async def FunctionGetOutputs(self, request: Any, container: str | None) -> pb.FunctionGetOutputsResponse:
        """Outputs as they come: of a map in order of arrival, of a call by index."""
        call, start = self._call(request.function_call_id), 0
        if call.kind == pb.FUNCTION_CALL_TYPE_MAP and not request.end_idx:
            start = int(request.last_entry_id.split("-")[0] or 0)
            arrived = lambda: call.outputs[start:]  # noqa: E731
        else:
            arrived = lambda: [o for o in call.outputs if request.start_idx <= o.idx <= request.end_idx]  # noqa: E731
        outputs = await self.state.wait_for(arrived, max(request.timeout, 0.001))
        return pb.FunctionGetOutputsResponse(
            outputs=outputs,
            idxs=[output.idx for output in outputs],
            last_entry_id=f"{start + len(outputs)}-0",
            num_unfinished_inputs=call.inputs - len(call.outputs),
        )

    async def FunctionCallFromId(self, request: Any, container: str | None) -> pb.FunctionCallFromIdResponse:
        call = self._call(request.function_call_id)
        return pb.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=call.inputs)

    async def FunctionCallCancel(self, request: Any, container: str | None) -> Empty:
        """Inputs end as TERMINATED; their containers go on to the next, unless those are to be ended as well.

        modal.functions.FunctionCall.cancel: inputs that others run in such a container are started again.
        """
        call = self._call(request.function_call_id)
        for one in [i for i in self.state.inputs.values() if i.call is call and not i.done]:
            await self.finish(one, Result(status=Result.GENERIC_STATUS_TERMINATED, exception="cancelled"))
            with contextlib.suppress(ValueError):
                call.function.waiting.remove(one)
            if here := self.state.containers.get(one.container or ""):
                if request.terminate_containers:
                    self.later(0, self.kill(here, "cancelled"))
                else:
                    here.cancelled.add(one.id)
                    self.state.tell()
        return Empty()

    async def FunctionCallGetDataIn(self, request: Any, container: str | None) -> AsyncIterator[pb.DataChunk]:
        async for chunk in self._chunks(self._call(request.function_call_id).data_in, request.last_index):
            yield chunk

    async def FunctionCallGetDataOut(self, request: Any, container: str | None) -> AsyncIterator[pb.DataChunk]:
        async for chunk in self._chunks(self._call(request.function_call_id).data_out, request.last_index):
            yield chunk

    # What a container does.

    async def FunctionCallPutDataOut(self, request: Any, container: str | None) -> Empty:
        self._call(request.function_call_id).data_out.extend(request.data_chunks)
        self.state.tell()
        return Empty()

    async def FunctionGetInputs(self, request: Any, container: str | None) -> pb.FunctionGetInputsResponse:
        """The next input, or the word to end: after a single use, after idle time, or when told to drain."""
        here = self.state.containers[container or ""]
        function = here.function
        last = pb.FunctionGetInputsResponse(inputs=[pb.FunctionGetInputsItem(kill_switch=True)])
        if here.draining or (here.had_input and function.spec.single_use_containers):
            return last
        settings, began = function.spec.autoscaler_settings, time.monotonic()
        here.polling += 1
        try:
            async with function.woken:
                while not function.waiting:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(function.woken.wait(), 0.5)
                    idle = time.monotonic() - began > (settings.scaledown_window or IDLE_S)
                    if here.draining or (idle and not here.running and not settings.min_containers):
                        return last
                one = function.waiting.popleft()
        finally:
            here.polling -= 1
        one.container, here.had_input = here.id, True
        here.running.add(one.id)
        self.watch(one, here)
        item = pb.FunctionGetInputsItem(
            input_id=one.id,
            input=one.message,
            function_call_id=one.call.id,
            retry_count=one.retry,
            function_map_idx=one.index,
            function_call_invocation_type=pb.FUNCTION_CALL_INVOCATION_TYPE_SYNC,
        )
        return pb.FunctionGetInputsResponse(inputs=[item])

    async def FunctionPutOutputs(self, request: Any, container: str | None) -> Empty:
        for output in request.outputs:
            one = self.state.inputs[output.input_id]
            self.state.containers[container or ""].running.discard(one.id)
            if output.retry_count == one.retry and not one.done:  # else the answer of a try that was given up
                await self.output(one, output.result, output.data_format)
        return Empty()

    async def output(self, one: Input, result: pb.GenericResult, form: Any = pb.DATA_FORMAT_PICKLE) -> None:
        """An input's result: told to the client, or tried again if the policy has tries left."""
        if one.container in self.state.containers:
            self.state.containers[one.container].running.discard(one.id)
        policy = one.call.function.spec.retry_policy
        if result.status in RETRIED and one.retry < policy.retries:
            wait_ms = policy.initial_delay_ms * (policy.backoff_coefficient or 1) ** one.retry
            one.retry, one.container = one.retry + 1, None
            self.later(min(wait_ms, policy.max_delay_ms or 60_000) / 1000, self.enqueue(one))
            return
        await self.finish(one, result, form)

    async def lost(self, one: Input, why: str) -> None:
        """Its container died: started again, which counts as no retry, until that has happened too often.

        modal.com/docs/guide/retries, "Container crashes"; the rate at which Modal gives up is not told, ours is LOST.
        """
        one.lost += 1
        if one.lost <= LOST:
            await self.start_again(one)
            return
        told = f"the container was lost {one.lost} times: {why}"
        await self.finish(one, Result(status=Result.GENERIC_STATUS_INTERNAL_FAILURE, exception=told))

    async def start_again(self, one: Input) -> None:
        """The same input, for another container (modal.com/docs/guide/preemption)."""
        one.container = None
        await self.enqueue(one)

    async def finish(self, one: Input, result: pb.GenericResult, form: Any = pb.DATA_FORMAT_PICKLE) -> None:
        """Tell the client, for good."""
        if one.done:
            return
        one.done = True
        one.call.outputs.append(
            pb.FunctionGetOutputsItem(
                result=result,
                idx=one.index,
                input_id=one.id,
                data_format=form,
                task_id=one.container or "",
                retry_count=one.retry,
            )
        )
        self.state.tell()

    def new_call(self, function: Function, kind: int) -> Call:
        call = Call(self.state.new_id("fc"), function, kind)
        self.state.calls[call.id] = call
        return call

    async def put_input(self, call: Call, item: Any) -> pb.FunctionPutInputsResponseItem:
        one = Input(self.state.new_id("in"), call, item.idx, item.input)
        self.state.inputs[one.id] = one
        call.inputs += 1
        await self.enqueue(one)
        return pb.FunctionPutInputsResponseItem(idx=item.idx, input_id=one.id, input_jwt=one.id)

    async def enqueue(self, one: Input) -> None:
        """Give it to a container that waits, or start one."""
        function = one.call.function
        async with function.woken:
            function.waiting.append(one)
            function.woken.notify_all()
        self.scale(function)

    def watch(self, one: Input, here: Container) -> None:
        """End what runs longer than the function's timeout (modal.com/docs/guide/timeouts), or is to be preempted."""
        seconds, retry = one.call.function.spec.timeout_secs, one.retry

        async def time_out() -> None:
            if not one.done and one.retry == retry and one.container == here.id:
                status = Result.GENERIC_STATUS_TIMEOUT
                await self.output(one, Result(status=status, exception=f"input ran longer than its {seconds} s"))
                await self.kill(here, "timeout", grace=1)

        if seconds:
            self.later(seconds, time_out())

    def _call(self, call_id: str) -> Call:
        if call_id not in self.state.calls:
            raise not_found(f"function call {call_id}")
        return self.state.calls[call_id]

    async def _chunks(self, chunks: list[pb.DataChunk], at: int) -> AsyncIterator[pb.DataChunk]:
        end = time.monotonic() + STREAM_S
        while time.monotonic() < end:
            while at < len(chunks):
                yield chunks[at]
                at += 1
            here = at
            await self.state.wait_for(lambda here=here: len(chunks) > here, end - time.monotonic())
