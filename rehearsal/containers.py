"""Containers: when one is started, how it ends, and what happens to the inputs it had."""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import grpclib
from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.inputs import Result
from tuneline.rehearsal.state import Container, Function, Input
from tuneline.rehearsal.worker import Worker, list_processes

HEARTBEAT_S = 14.0
MEMORY_CHECK_S = 0.2
OUT_OF_MEMORY = "out of memory"
PREEMPTION_GRACE_S = 30.0
"""modal.com/docs/guide/preemption: SIGINT, then up to 30 seconds."""
CONTAINERS_PER_FUNCTION = 4
MAX_CRASHES = 2
"""After this many containers of a function died before they took an input, its inputs fail."""


class Containers(Worker):
    """RPCs of containers, and their start and end."""

    async def ContainerHello(self, request: Any, container_id: str | None) -> Empty:
        return Empty()

    async def ContainerHeartbeat(self, request: Any, container_id: str | None) -> pb.ContainerHeartbeatResponse:
        """Respond when there is an input to cancel, or after HEARTBEAT_S.

        modal._runtime.container_io_manager sends the next heartbeat after 15 s.
        """
        container = self.state.containers[container_id or ""]
        await self.state.wait_for(lambda: container.cancelled or not container.alive, HEARTBEAT_S)
        if not container.cancelled:
            return pb.ContainerHeartbeatResponse()
        cancelled, container.cancelled = container.cancelled, set()
        return pb.ContainerHeartbeatResponse(cancel_input_event=pb.CancelInputEvent(input_ids=sorted(cancelled)))

    async def FunctionGetDynamicConcurrency(self, request: Any, container_id: str | None) -> Any:
        return pb.FunctionGetDynamicConcurrencyResponse(concurrency=request.target_concurrency)

    async def ContainerStop(self, request: Any, container_id: str | None) -> pb.ContainerStopResponse:
        if container := self.state.containers.get(request.task_id):
            await self.kill(container, "stopped")
        return pb.ContainerStopResponse()

    async def TaskResult(self, request: Any, container_id: str | None) -> Empty:
        """An import or an @enter failed: every input of the function fails."""
        container = self.state.containers[container_id or ""]
        container.failed = True
        for call_input in [self.state.inputs[i] for i in container.running] + list(container.function.waiting):
            await self.finish_input(call_input, request.result)
        container.function.waiting.clear()
        return Empty()

    def scale_up(self, function: Function) -> None:
        """Start a container if more inputs than containers are waiting."""
        available = [
            c
            for c in self.state.containers.values()
            if c.function is function and c.alive and not c.draining and not (c.had_input and _single_use(function))
        ]
        ready = sum(c.polling for c in available) + sum(not c.connected for c in available)
        max_containers = function.spec.autoscaler_settings.max_containers or CONTAINERS_PER_FUNCTION
        if len(function.waiting) > ready and len(available) < max_containers:
            folder = self.state.folder / "containers" / (container_id := self.state.new_id("ta"))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            container = Container(container_id, function, folder)
            self.state.containers[container_id] = container
            self.schedule(0, self._run_container(container))

    async def kill(self, container: Container, reason: str, grace: float = 5) -> None:
        """Send SIGINT, and after `grace` seconds SIGKILL to all its processes; with `grace` 0 SIGKILL at once."""
        container.draining = True
        if not container.alive:
            return
        container.ended_by = reason
        while container.process is None:
            await asyncio.sleep(0.02)
        if grace:
            _signal(container.process.pid, signal.SIGINT)
            end = asyncio.get_running_loop().time() + grace
            while container.alive and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0.05)
        if container.alive:  # with its launcher every process of its namespace dies
            _signal(container.process.pid, signal.SIGKILL)

    def inject_failures(self, call_input: Input, container: Container) -> None:
        """Preempt or kill the container of this input if that was requested for its function."""
        for plans, reason, grace in ((self.preemptions, "preempted", PREEMPTION_GRACE_S), (self.kills, "killed", 0.0)):
            if delays := plans.get(container.function.name):
                self.schedule(delays.pop(0), self._kill_during(call_input, container, reason, grace))

    async def _kill_during(self, call_input: Input, container: Container, reason: str, grace: float) -> None:
        """Kill the container if it still works on this input."""
        if not call_input.done and call_input.container == container.id:
            await self.kill(container, reason, grace)

    async def _run_container(self, container: Container) -> None:
        """Start a container, wait for its end, and clean up."""
        await self.start_process(container)
        assert container.process and container.process.stdout and container.process.stderr
        if limit_mib := container.function.spec.resources.memory_mb_max:
            self.schedule(0, self._watch_memory(container, limit_mib))
        await asyncio.gather(
            self._log_stream(container, container.process.stdout, pb.FILE_DESCRIPTOR_STDOUT),
            self._log_stream(container, container.process.stderr, pb.FILE_DESCRIPTOR_STDERR),
            container.process.wait(),
        )
        container.alive = False
        for relay in container.relays:
            relay.close()
        code = container.process.returncode
        if code == 0 and container.ended_by in ("", "app stopped"):
            await self._commit_all(container)  # a container that ends without error commits
        await self._settle_inputs(container, code)
        shutil.rmtree(container.folder, ignore_errors=True)
        if container.function.waiting and not container.failed:
            self.scale_up(container.function)

    async def _watch_memory(self, container: Container, limit_mib: int) -> None:
        """Kill a container that exceeds its limit, `memory=(request, limit)` (modal.com/docs/guide/resources)."""
        while container.alive:
            if await asyncio.to_thread(memory_mib, container) > limit_mib:
                container.ended_by = OUT_OF_MEMORY
                text = f"{container.id} used more than its {limit_mib} MiB of memory and is killed\n"
                await self.log(container, text, pb.FILE_DESCRIPTOR_INFO)
                await self.kill(container, OUT_OF_MEMORY, grace=0)
                return
            await asyncio.sleep(MEMORY_CHECK_S)

    async def _settle_inputs(self, container: Container, code: int | None) -> None:
        """Restart, finish or fail the inputs that a dead container had."""
        for call_input in [self.state.inputs[i] for i in container.running]:
            if not call_input.done:
                await self._settle_input(call_input, container, code)
        is_out_of_memory = container.ended_by == OUT_OF_MEMORY
        if not container.had_input and (is_out_of_memory or not container.ended_by) and code:
            container.function.crashes += 1
            if container.function.crashes >= MAX_CRASHES:
                await self._fail_waiting(container.function, code, is_out_of_memory)

    async def _settle_input(self, call_input: Input, container: Container, code: int | None) -> None:
        if container.ended_by in ("app stopped", "plane stopped"):
            status = Result.GENERIC_STATUS_TERMINATED
            await self.finish_input(call_input, Result(status=status, exception=container.ended_by))
        elif container.ended_by in ("", OUT_OF_MEMORY, "killed"):
            reason = container.ended_by or f"it ended with exit code {code}"
            await self.log(container, f"{container.id} was lost: {reason}\n", pb.FILE_DESCRIPTOR_INFO)
            await self.handle_lost_container(call_input, reason)
        else:  # preempted, or another input in it was cancelled or ran out of time
            text = f"{container.id} was {container.ended_by}; its input starts again\n"
            await self.log(container, text, pb.FILE_DESCRIPTOR_INFO)
            await self.restart_input(call_input)

    async def _fail_waiting(self, function: Function, code: int, is_out_of_memory: bool) -> None:
        reason = OUT_OF_MEMORY if is_out_of_memory else f"it ended with {code}; its log says why"
        status = Result.GENERIC_STATUS_INTERNAL_FAILURE if is_out_of_memory else Result.GENERIC_STATUS_FAILURE
        exception = f"the container took no input: {reason}"
        for call_input in list(function.waiting):
            await self.finish_input(call_input, Result(status=status, exception=exception))
        function.waiting.clear()

    async def _commit_all(self, container: Container) -> None:
        for checkout in container.checkouts:
            if not checkout.read_only:
                try:
                    await self.commit(checkout)
                except grpclib.GRPCError as error:
                    await self.log(container, f"{checkout.volume.name}: {error.message}\n", pb.FILE_DESCRIPTOR_STDERR)

    async def _log_stream(self, container: Container, stream: asyncio.StreamReader, channel: int) -> None:
        while chunk := await stream.read(65536):
            await self.log(container, chunk.decode("utf-8", "replace"), channel)


def memory_mib(container: Container) -> float:
    """Return the resident memory of a container's processes; shared pages count once for each process."""
    return sum(_resident_bytes(process) for process in list_processes(container)) / 2**20


def _resident_bytes(process: Path) -> int:
    try:
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _single_use(function: Function) -> bool:
    return bool(function.spec.single_use_containers)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
