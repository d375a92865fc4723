"""The worker: each container is a process of Modal's own entrypoint, in a mount namespace of its own.

Its root is this machine's, with the app's files and Volumes mounted over it, as an ordinary user where user namespaces
are allowed. It runs in this Python environment; of an image, ENV and WORKDIR count, the rest is recorded.
"""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpclib
from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from rehearsal.calls import Result
from rehearsal.objects import Checkout, Container, Function, Input
from rehearsal.part import Part

PREEMPTION_GRACE_S = 30.0
"""modal.com/docs/guide/preemption: SIGINT, then up to 30 seconds."""
CONTAINERS_PER_FUNCTION = 4
CRASHES = 2
"""A container that dies this often before it takes an input will go on dying: its inputs fail."""
PASSED = "TUNELINE_CACHE"
"""Of our own environment: where llama.cpp is built, which an image would hold."""

NO_NAMESPACES = (
    "this machine lets nobody make user namespaces, in which the rehearsal mounts Volumes; as root allow them: "
    "sysctl -w kernel.unprivileged_userns_clone=1 (or user.max_user_namespaces, or AppArmor's "
    "kernel.apparmor_restrict_unprivileged_userns=0)"
)


def namespaces_allowed() -> bool:
    """Whether this user may mount things for a process of their own."""
    probe = subprocess.run([*_unshare(), "true"], capture_output=True, check=False)
    return probe.returncode == 0


class Containers(Part):
    """RPCs of containers, and what starts and ends them."""

    async def ContainerHello(self, request: Any, container: str | None) -> Empty:
        return Empty()

    async def ContainerHeartbeat(self, request: Any, container: str | None) -> pb.ContainerHeartbeatResponse:
        return pb.ContainerHeartbeatResponse()

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
        """SIGINT, some grace, then SIGKILL to it and its children. With `grace` 0 SIGKILL at once."""
        container.draining = True
        if not container.alive:
            return
        container.ended_by = why
        while container.process is None:
            await asyncio.sleep(0.02)
        if grace:
            _signal(container.process.pid, signal.SIGINT, group=False)
            end = asyncio.get_running_loop().time() + grace
            while container.alive and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0.05)
        if container.alive:
            _signal(container.process.pid, signal.SIGKILL, group=True)

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
        await self._mount(container)
        (container.folder / "args.bin").write_bytes(self._arguments(container).SerializeToString())
        container.process = await asyncio.create_subprocess_exec(
            *_unshare(),
            "bash",
            str(container.folder / "enter.sh"),
            env=self._environment(container),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert container.process.stdout and container.process.stderr
        await asyncio.gather(
            self._pump(container, container.process.stdout, pb.FILE_DESCRIPTOR_STDOUT),
            self._pump(container, container.process.stderr, pb.FILE_DESCRIPTOR_STDERR),
            container.process.wait(),
        )
        container.alive = False
        code = container.process.returncode
        if code == 0 and container.ended_by in ("", "app stopped"):
            await self._commit_all(container)  # a container that ends well commits
        await self._answer_for(container, code)
        shutil.rmtree(container.folder, ignore_errors=True)
        if container.function.waiting and not container.failed:
            self.scale(container.function)

    async def _answer_for(self, container: Container, code: int | None) -> None:
        """What becomes of inputs that a dead container had."""
        function = container.function
        for one in [self.state.inputs[i] for i in container.running]:
            if one.done:
                continue
            if container.ended_by == "preempted":  # not counted as a retry (modal.com/docs/guide/preemption)
                await self.log(container, f"{container.id} was preempted; its input starts again\n", 1)
                one.container = None
                await self.enqueue(one)
            elif container.ended_by in ("", "killed"):
                status, told = Result.GENERIC_STATUS_INTERNAL_FAILURE, f"the container was lost (exit code {code})"
                await self.output(one, Result(status=status, exception=told))
            else:
                status = Result.GENERIC_STATUS_TERMINATED
                await self.finish(one, Result(status=status, exception=container.ended_by))
        if not container.had_input and not container.ended_by and code:
            function.crashes += 1
            if function.crashes >= CRASHES:
                told = f"the container ended with {code} before it took an input; its log says why"
                for one in list(function.waiting):
                    await self.finish(one, Result(status=Result.GENERIC_STATUS_FAILURE, exception=told))
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

    async def _mount(self, container: Container) -> None:
        """Lay out the app's files and the Volumes, and the script that mounts them."""
        spec, stage = container.function.spec, container.folder / "stage"
        (stage / "root").mkdir(parents=True)
        for mount_id in spec.mount_ids:
            for file in self.state.mounts.get(mount_id, []):
                path = stage / file.filename.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.state.folder / "files" / file.sha256_hex, path)
                if file.mode:
                    path.chmod(file.mode & 0o777)
        binds = [(container.folder, "/__modal", False)]
        for mount in spec.volume_mounts:
            volume = self.state.volumes[mount.volume_id]
            view = Checkout(volume, container.folder / volume.id, mount.read_only)
            view.copy.mkdir()
            await self.check_out(view)
            container.checkouts.append(view)
            binds.append((view.copy, mount.mount_path, mount.read_only))
        layers, folder = self.layers(spec.image_id), "/root"
        for layer in layers:
            if found := re.match(r"WORKDIR\s+(\S+)", layer):
                folder = found[1]
        script = _enter_script(container.folder / "new", stage, binds, folder)
        (container.folder / "enter.sh").write_text(script)

    def _environment(self, container: Container) -> dict[str, str]:
        spec = container.function.spec
        environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        if PASSED in os.environ:
            environment[PASSED] = os.environ[PASSED]
        for layer in self.layers(spec.image_id):
            if found := re.match(r"ENV\s+([A-Za-z_]\w*)[= ](.*)", layer):
                environment[found[1]] = shlex.split(found[2])[0] if found[2].strip() else ""
        for secret_id in spec.secret_ids:
            environment |= self.state.secrets[secret_id]
        return environment | {
            "MODAL_SERVER_URL": self.server_url,
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": container.id,
            "MODAL_IMAGE_ID": spec.image_id,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_REHEARSAL",
            "MODAL_REGION": "here",
            "MODAL_CONTAINER_ARGUMENTS_PATH": "/__modal/args.bin",
            "MODAL_OVERRIDE_HEADERS": f"x-rehearsal-container:{container.id}",
            "PYTHONPATH": "/root",
        }

    def _arguments(self, container: Container) -> pb.ContainerArguments:
        function = container.function
        return pb.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=function.app.id,
            function_def=function.spec,
            serialized_params=function.parameters,
            environment_name="main",
            app_layout=self.layout(function.app),
        )


def _single_use(function: Function) -> bool:
    return bool(function.spec.single_use_containers)


def _unshare() -> list[str]:
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


def _signal(pid: int, number: signal.Signals, *, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, number)


def _enter_script(new: Path, stage: Path, binds: list[tuple[Path, str, bool]], folder: str) -> str:
    """Bash that builds the container's root in `new` and starts Modal's entrypoint in it.

    The machine's top folders are bound into an empty root, all but /root, which holds the app's files as on Modal.
    """
    quote, root = shlex.quote, shlex.quote(str(new))
    lines = ["set -e", f"mkdir -p {root}", f"mount -t tmpfs tmpfs {root}"]
    lines.append(
        f'for entry in /*; do name=$(basename "$entry"); case $name in root|__modal) ;; *) '
        f'if [ -L "$entry" ]; then cp -d "$entry" {root}/; '
        f'elif [ -d "$entry" ]; then mkdir -p {root}/"$name"; mount --rbind "$entry" {root}/"$name"; fi;; esac; done'
    )
    lines.append(f"mkdir -p {root}/root; cp -a {quote(str(stage / 'root'))}/. {root}/root/")
    for source, target, read_only in sorted(binds, key=lambda bind: bind[1].count("/")):
        inside = root + quote(target)
        lines.append(f"mkdir -p {inside} && mount --bind {quote(str(source))} {inside}")
        if read_only:
            lines.append(f"mount -o remount,bind,ro {inside}")
    for kept in sorted({sys.prefix, sys.base_prefix}):
        if kept.startswith("/root/"):  # else hidden by the app's own files
            lines.append(f"mkdir -p {root}{quote(kept)} && mount --rbind {quote(kept)} {root}{quote(kept)}")
    entry = f"cd {quote(folder)} && exec {quote(sys.executable)} -m modal._container_entrypoint"
    lines.append(f"mkdir -p {root}{quote(folder)}; exec chroot {root} /bin/sh -c {quote(entry)}")
    return "\n".join(lines) + "\n"
