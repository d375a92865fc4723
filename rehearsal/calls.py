"""Calls of functions, as the client sees them: inputs in, outputs out."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.component import Component
from tuneline.rehearsal.errors import not_found
from tuneline.rehearsal.inputs import Result
from tuneline.rehearsal.state import Call, Function, Input

STREAM_S = 50.0
"""How long one request for data chunks is held."""


class Calls(Component):
    """RPCs of function calls."""

    async def FunctionMap(self, request: Any, container_id: str | None) -> pb.FunctionMapResponse:
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

    async def FunctionPutInputs(self, request: Any, container_id: str | None) -> pb.FunctionPutInputsResponse:
        call = self._call(request.function_call_id)
        return pb.FunctionPutInputsResponse(inputs=[await self.put_input(call, item) for item in request.inputs])

    async def FunctionFinishInputs(self, request: Any, container_id: str | None) -> Empty:
        return Empty()

    async def FunctionGetOutputs(self, request: Any, container_id: str | None) -> pb.FunctionGetOutputsResponse:
        """Return outputs as they arrive: those of a map in order of arrival, those of a call by index."""
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

    async def FunctionCallFromId(self, request: Any, container_id: str | None) -> pb.FunctionCallFromIdResponse:
        call = self._call(request.function_call_id)
        return pb.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=call.inputs)

    async def FunctionCallCancel(self, request: Any, container_id: str | None) -> Empty:
        """End the inputs as TERMINATED, and their containers too if `terminate_containers` is set.

        modal.functions.FunctionCall.cancel: other inputs in such a container are started again.
        """
        call = self._call(request.function_call_id)
        for call_input in [i for i in self.state.inputs.values() if i.call is call and not i.done]:
            await self.finish_input(call_input, Result(status=Result.GENERIC_STATUS_TERMINATED, exception="cancelled"))
            with contextlib.suppress(ValueError):
                call.function.waiting.remove(call_input)
            if container := self.state.containers.get(call_input.container or ""):
                if request.terminate_containers:
                    self.schedule(0, self.kill(container, "cancelled"))
                else:
                    container.cancelled.add(call_input.id)
                    self.state.notify()
        return Empty()

    async def FunctionCallGetDataIn(self, request: Any, container_id: str | None) -> AsyncIterator[pb.DataChunk]:
        async for chunk in self._chunks(self._call(request.function_call_id).data_in, request.last_index):
            yield chunk

    async def FunctionCallGetDataOut(self, request: Any, container_id: str | None) -> AsyncIterator[pb.DataChunk]:
        async for chunk in self._chunks(self._call(request.function_call_id).data_out, request.last_index):
            yield chunk

    async def FunctionCallPutDataOut(self, request: Any, container_id: str | None) -> Empty:
        self._call(request.function_call_id).data_out.extend(request.data_chunks)
        self.state.notify()
        return Empty()

    def new_call(self, function: Function, kind: int) -> Call:
        call = Call(self.state.new_id("fc"), function, kind)
        self.state.calls[call.id] = call
        return call

    async def put_input(self, call: Call, item: Any) -> pb.FunctionPutInputsResponseItem:
        call_input = Input(self.state.new_id("in"), call, item.idx, item.input)
        self.state.inputs[call_input.id] = call_input
        call.inputs += 1
        await self.enqueue(call_input)
        return pb.FunctionPutInputsResponseItem(idx=item.idx, input_id=call_input.id, input_jwt=call_input.id)

    def _call(self, call_id: str) -> Call:
        if call_id not in self.state.calls:
            raise not_found(f"function call {call_id}")
        return self.state.calls[call_id]

    async def _chunks(self, chunks: list[pb.DataChunk], start: int) -> AsyncIterator[pb.DataChunk]:
        position, end = start, time.monotonic() + STREAM_S
        while time.monotonic() < end:
            while position < len(chunks):
                yield chunks[position]
                position += 1
            sent = position
            await self.state.wait_for(lambda sent=sent: len(chunks) > sent, end - time.monotonic())
