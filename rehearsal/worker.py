"""The worker: a container is a process of Modal's own entrypoint, in namespaces of its own.

Mounts, processes and network are its own (`inside.py`), for an ordinary user too where user namespaces are allowed. It
runs in this Python environment: of an image ENV and WORKDIR count, the rest is recorded. Of this machine's files it
sees everything but the checkout, /root and /tmp, and may write to none: what it may import, the app must have added.
"""

import asyncio
import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from modal_proto import api_pb2 as pb

from tuneline.rehearsal import inside, network
from tuneline.rehearsal.objects import Checkout, Container
from tuneline.rehearsal.part import Part

CHECKOUT = Path(__file__).resolve().parents[1]
PASSED = "TUNELINE_CACHE"
"""Of our own environment: where llama.cpp is built, which an image would hold."""

NO_NAMESPACES = (
    "this machine lets nobody make user namespaces, in which the rehearsal mounts Volumes; as root allow them: "
    "sysctl -w kernel.unprivileged_userns_clone=1 (or user.max_user_namespaces, or AppArmor's "
    "kernel.apparmor_restrict_unprivileged_userns=0)"
)


class Spec(TypedDict):
    """What `inside.py` is told."""

    command: list[str]
    environment: dict[str, str]
    folder: str
    """Where the entrypoint starts: the image's WORKDIR."""
    root: str
    ports: list[int]
    network: bool
    """Whether it shares this machine's network."""
    hidden: list[str]
    kept: list[str]
    files: list[tuple[str, str, int]]
    """Source, place, mode."""
    binds: list[tuple[str, str, bool]]
    """Folder, place, read-only."""


def namespaces_allowed() -> bool:
    """Whether this user may give a process mounts, processes and a network of its own."""
    probe = "import sys; sys.path.insert(0, sys.argv[1]); import inside; inside.unshare(network=False)"
    command = [sys.executable, "-I", "-S", "-c", probe, str(Path(inside.__file__).parent)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def processes(container: Container) -> Iterator[Path]:
    """Its processes, as folders of this machine's /proc: those in its launcher's new process namespace."""
    assert container.process
    with contextlib.suppress(OSError):
        mine = Path(f"/proc/{container.process.pid}/ns/pid_for_children").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns/pid").readlink() == mine:
                    yield process


class Worker(Part):
    """Starts the processes of containers."""

    async def start_process(self, container: Container) -> None:
        """Lay out what the container sees, start it, and open the way out of its network."""
        spec = await self._spec(container)
        (container.folder / "args.bin").write_bytes(self._arguments(container).SerializeToString())
        (container.folder / "root").mkdir()
        (container.folder / "spec.json").write_text(json.dumps(spec))
        here, there = socket.socketpair()
        with here, there:
            container.process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-I",
                    "-S",
                    inside.__file__,
                    str(container.folder / "spec.json"),
                    str(there.fileno()),
                ),
                pass_fds=[there.fileno()],
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            there.close()
            listeners = await asyncio.to_thread(network.received, here, len(spec["ports"]))
        for listener, port in zip(listeners, spec["ports"], strict=False):
            container.ways_out.append(await network.relay(listener, port))

    async def _spec(self, container: Container) -> Spec:
        spec = container.function.spec
        files = [
            (str(self.state.folder / "files" / file.sha256_hex), file.filename, file.mode & 0o777)
            for mount_id in spec.mount_ids
            for file in self.state.mounts.get(mount_id, [])
        ]
        binds = [(str(container.folder), "/__modal", False)]
        for mount in spec.volume_mounts:
            volume = self.state.volumes[mount.volume_id]
            view = Checkout(volume, container.folder / volume.id, mount.read_only)
            view.copy.mkdir()
            await self.check_out(view)
            container.checkouts.append(view)
            part = view.copy / mount.sub_path.lstrip("/")
            part.mkdir(parents=True, exist_ok=True)
            binds.append((str(part), mount.mount_path, mount.read_only))
        folders = [found[1] for layer in self.layers(spec.image_id) if (found := re.match(r"WORKDIR\s+(\S+)", layer))]
        return {
            "command": [sys.executable, "-m", "modal._container_entrypoint"],
            "environment": self._environment(container),
            "folder": folders[-1] if folders else "/root",
            "root": str(container.folder / "root"),
            "ports": [] if self.shares_network else self._ports_out(),
            "network": self.shares_network,
            "hidden": [] if CHECKOUT.is_relative_to(sys.prefix) else [str(CHECKOUT)],
            "kept": [path for path in (sys.prefix, sys.base_prefix, os.environ.get(PASSED)) if path],
            "files": files,
            "binds": binds,
        }

    def _ports_out(self) -> list[int]:
        """Of this machine, reached from inside: the plane, the web endpoints there are, and what was let through."""
        urls = [url for function in self.state.functions.values() for url in function.urls.values()]
        ports = {int(url.rpartition(":")[2]) for url in (self.server_url, self.address, *urls)}
        return sorted(ports | set(self.let_through))

    def _environment(self, container: Container) -> dict[str, str]:
        """Of the image's ENV, then the secrets, then what Modal sets (modal.com/docs/guide/environment_variables)."""
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
