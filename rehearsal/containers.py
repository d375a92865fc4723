"""Containers: when one is started, how it ends, and what becomes of the inputs it had."""

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

from tuneline.rehearsal.calls import Result
from tuneline.rehearsal.objects import Container, Function, Input
from tuneline.rehearsal.worker import Worker, processes

HEARTBEAT_S = 14.0
MEMORY_EVERY_S = 0.2
OUT_OF_MEMORY = "out of memory"
PREEMPTION_GRACE_S = 30.0
"""modal.com/docs/guide/preemption: SIGINT, then up to 30 seconds."""
CONTAINERS_PER_FUNCTION = 4
CRASHES = 2
"""A container that dies this often before it takes an input will go on dying: its inputs fail."""


class Containers(Worker):
    """RPCs of containers, and what starts and ends them."""

    async def ContainerHello(self, request: Any, container: str | None) -> Empty:
        return Empty()

    async def ContainerHeartbeat(self, request: Any, container: str | None) -> pb.ContainerHeartbeatResponse:
        """Held until there is an input to cancel (modal._runtime.container_io_manager asks every 15 s)."""
        here = self.state.containers[container or ""]
        await self.state.wait_for(lambda: here.cancelled or not here.alive, HEARTBEAT_S)
        if not here.cancelled:
            return pb.ContainerHeartbeatResponse()
        cancelled, here.cancelled = here.cancelled, set()
        return pb.ContainerHeartbeatResponse(cancel_input_event=pb.CancelInputEvent(input_ids=sorted(cancelled)))

    async def FunctionGetDynamicConcurrency(self, request: Any, container: str | None) -> Any:
        return pb.FunctionGetDynamicConcurrencyResponse(concurrency=request.target_concurrency)

    async def ContainerStop(self, request: Any, container: str | None) -> pb.ContainerStopResponse:
        if found := self.state.containers.get(request.task_id):
            await self.kill(found, "stopped")
        return pb.ContainerStopResponse()

    async def TaskResult(self, request: Any, container: str | None) -> Empty:
        """An import or an @enter failed: nothing that waits for this function can run."""
        here = self.state.containers[container or ""]
        here.failed = True
        for one in [self.state.inputs[i] for i in here.running] + list(here.function.waiting):
            await self.finish(one, request.result)
        here.function.waiting.clear()
        return Empty()

    def scale(self, function: Function) -> None:
        """Start a container if more inputs wait than containers do."""
        mine = [
            c
            for c in self.state.containers.values()
            if c.function is function and c.alive and not c.draining and not (c.had_input and _single_use(function))
        ]
        ready = sum(c.polling for c in mine) + sum(not c.connected for c in mine)
        most = function.spec.autoscaler_settings.max_containers or CONTAINERS_PER_FUNCTION
        if len(function.waiting) > ready and len(mine) < most:
            folder = self.state.folder / "containers" / (container_id := self.state.new_id("ta"))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            container = Container(container_id, function, folder)
            self.state.containers[container_id] = container
            self.later(0, self._live(container))

    async def kill(self, container: Container, why: str, grace: float = 5) -> None:
        """SIGINT, some grace, then SIGKILL to it and all its processes. With `grace` 0 SIGKILL at once."""
        container.draining = True
        if not container.alive:
            return
        container.ended_by = why
        while container.process is None:
            await asyncio.sleep(0.02)
        if grace:
            _signal(container.process.pid, signal.SIGINT)
            end = asyncio.get_running_loop().time() + grace
            while container.alive and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0.05)
        if container.alive:  # with its launcher every process of its namespace dies
            _signal(container.process.pid, signal.SIGKILL)

    def disturb(self, one: Input, container: Container) -> None:
        """Preempt or kill this input's container if that was asked for."""
        for plans, why, grace in ((self.preemptions, "preempted", PREEMPTION_GRACE_S), (self.kills, "killed", 0.0)):
            if waits := plans.get(container.function.name):
                self.later(waits.pop(0), self._disturb(one, container, why, grace))

    async def _disturb(self, one: Input, container: Container, why: str, grace: float) -> None:
        if not one.done and one.container == container.id:
            await self.kill(container, why, grace)

    async def _live(self, container: Container) -> None:
        """From start to end of a container."""
        await self.start_process(container)
        assert container.process and container.process.stdout and container.process.stderr
        if most_mib := container.function.spec.resources.memory_mb_max:
            self.later(0, self._watch_memory(container, most_mib))
        await asyncio.gather(
            self._pump(container, container.process.stdout, pb.FILE_DESCRIPTOR_STDOUT),
            self._pump(container, container.process.stderr, pb.FILE_DESCRIPTOR_STDERR),
            container.process.wait(),
        )
        container.alive = False
        for way in container.ways_out:
            way.close()
        code = container.process.returncode
        if code == 0 and container.ended_by in ("", "app stopped"):
            await self._commit_all(container)  # a container that ends well commits
        await self._answer_for(container, code)
        shutil.rmtree(container.folder, ignore_errors=True)
        if container.function.waiting and not container.failed:
            self.scale(container.function)

    async def _watch_memory(self, container: Container, most_mib: int) -> None:
        """End it when it uses more than its limit, `memory=(request, limit)` (modal.com/docs/guide/resources)."""
        while container.alive:
            if await asyncio.to_thread(memory_mib, container) > most_mib:
                container.ended_by = OUT_OF_MEMORY
                told = f"{container.id} used more than its {most_mib} MiB of memory and is killed\n"
                await self.log(container, told, pb.FILE_DESCRIPTOR_INFO)
                await self.kill(container, OUT_OF_MEMORY, grace=0)
                return
            await asyncio.sleep(MEMORY_EVERY_S)

    async def _answer_for(self, container: Container, code: int | None) -> None:
        """What becomes of inputs that a dead container had."""
        function = container.function
        for one in [self.state.inputs[i] for i in container.running]:
            if one.done:
                continue
            if container.ended_by in ("app stopped", "plane stopped"):
                status = Result.GENERIC_STATUS_TERMINATED
                await self.finish(one, Result(status=status, exception=container.ended_by))
            elif container.ended_by in ("", OUT_OF_MEMORY, "killed"):
                why = container.ended_by or f"it ended with exit code {code}"
                await self.log(container, f"{container.id} was lost: {why}\n", pb.FILE_DESCRIPTOR_INFO)
                await self.lost(one, why)
            else:  # preempted, or somebody else's input was cancelled or ran out of time
                told = f"{container.id} was {container.ended_by}; its input starts again\n"
                await self.log(container, told, pb.FILE_DESCRIPTOR_INFO)
                await self.start_again(one)
        starved = container.ended_by == OUT_OF_MEMORY
        if not container.had_input and (starved or not container.ended_by) and code:
            function.crashes += 1
            if function.crashes >= CRASHES:
                how = OUT_OF_MEMORY if starved else f"it ended with {code}; its log says why"
                status = Result.GENERIC_STATUS_INTERNAL_FAILURE if starved else Result.GENERIC_STATUS_FAILURE
                for one in list(function.waiting):
                    told = f"the container took no input: {how}"
                    await self.finish(one, Result(status=status, exception=told))
                function.waiting.clear()

    async def _commit_all(self, container: Container) -> None:
        for view in container.checkouts:
            if not view.read_only:
                try:
                    await self.commit(view)
                except grpclib.GRPCError as error:
                    await self.log(container, f"{view.volume.name}: {error.message}\n", pb.FILE_DESCRIPTOR_STDERR)

    async def _pump(self, container: Container, stream: asyncio.StreamReader, channel: int) -> None:
        while piece := await stream.read(65536):
            await self.log(container, piece.decode("utf-8", "replace"), channel)


def memory_mib(container: Container) -> float:
    """What all processes of a container have in memory; shared pages count once for each."""
    return sum(_resident_bytes(process) for process in processes(container)) / 2**20


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
