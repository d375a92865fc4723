"""The worker: a container is a process of Modal's own entrypoint, in Linux namespaces of its own.

It has its own mounts, processes and network (`sandbox.py`), for an ordinary user too where user namespaces are allowed.
It runs in this Python environment: ENV and WORKDIR of an image apply, the rest of the image is only recorded. It sees
this machine's files except the checkout, /root and /tmp, all read-only: what it imports, the app must have added.
"""

import asyncio
import contextlib
import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from modal_proto import api_pb2 as pb

from tuneline.core.environment import read_stated_variable
from tuneline.core.files import write_atomic
from tuneline.rehearsal import network, sandbox
from tuneline.rehearsal.component import Component
from tuneline.rehearsal.state import Checkout, Container

CHECKOUT = Path(__file__).resolve().parents[1]
TOKEN_HEADER = "x-modal-token-secret"
"""Where a client sends MODAL_TOKEN_SECRET (modal.client); one in a container is told to send it too."""
INHERITED_VARIABLE = "TUNELINE_CACHE"
"""The variable passed on from our own environment: where llama.cpp is built, which would be in an image."""

NO_NAMESPACES_MESSAGE = (
    "this machine does not allow user namespaces, in which the rehearsal mounts Volumes; allow them as root: "
    "sysctl -w kernel.unprivileged_userns_clone=1 (or user.max_user_namespaces, or AppArmor's "
    "kernel.apparmor_restrict_unprivileged_userns=0)"
)


class SandboxSpec(TypedDict):
    """The JSON argument of `sandbox.py`."""

    command: list[str]
    environment: dict[str, str]
    folder: str
    """Working directory of the entrypoint: the image's WORKDIR."""
    root: str
    ports: list[int]
    network: bool
    """Whether it shares this machine's network."""
    hidden: list[str]
    visible: list[str]
    files: list[tuple[str, str, int]]
    """Source, target, mode."""
    binds: list[tuple[str, str, bool]]
    """Source, target, whether it is read-only."""


def can_make_namespaces() -> bool:
    """Whether this user may make mount, process and network namespaces."""
    probe = "import sys; sys.path.insert(0, sys.argv[1]); import sandbox; sandbox.unshare(network=False)"
    command = [sys.executable, "-I", "-S", "-c", probe, str(Path(sandbox.__file__).parent)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def list_processes(container: Container) -> Iterator[Path]:
    """Yield the /proc folders of a container's processes: those in its launcher's new process namespace."""
    assert container.process
    with contextlib.suppress(OSError):
        namespace = Path(f"/proc/{container.process.pid}/ns/pid_for_children").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns/pid").readlink() == namespace:
                    yield process


class Worker(Component):
    """Starts the processes of containers."""

    async def start_process(self, container: Container) -> None:
        """Prepare what the container sees, start it, and connect the ports out of its network."""
        spec = await self._sandbox_spec(container)
        (container.folder / "args.bin").write_bytes(self._entrypoint_arguments(container).SerializeToString())
        (container.folder / "root").mkdir()
        write_atomic(container.folder / "spec.json", json.dumps(spec), private=True)
        our_end, launcher_end = socket.socketpair()
        with our_end, launcher_end:
            container.process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-I",
                    "-S",
                    sandbox.__file__,
                    str(container.folder / "spec.json"),
                    str(launcher_end.fileno()),
                ),
                pass_fds=[launcher_end.fileno()],
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            launcher_end.close()
            listeners = await asyncio.to_thread(network.receive_sockets, our_end, len(spec["ports"]))
        for listener, port in zip(listeners, spec["ports"], strict=False):
            container.relays.append(await network.relay(listener, port))

    async def _sandbox_spec(self, container: Container) -> SandboxSpec:
        spec = container.function.spec
        files = [
            (str(self.state.folder / "files" / file.sha256_hex), file.filename, file.mode & 0o777)
            for mount_id in spec.mount_ids
            for file in self.state.mounts.get(mount_id, [])
        ]
        binds = [(str(container.folder), "/__modal", False)]
        for mount in spec.volume_mounts:
            volume = self.state.volumes[mount.volume_id]
            checkout = Checkout(volume, container.folder / volume.id, mount.read_only)
            checkout.copy.mkdir()
            await self.check_out(checkout)
            container.checkouts.append(checkout)
            folder = checkout.copy / mount.sub_path.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            binds.append((str(folder), mount.mount_path, mount.read_only))
        workdirs = [match[1] for layer in self.layers(spec.image_id) if (match := re.match(r"WORKDIR\s+(\S+)", layer))]
        return {
            "command": [sys.executable, "-m", "modal._container_entrypoint"],
            "environment": self._environment(container),
            "folder": workdirs[-1] if workdirs else "/root",
            "root": str(container.folder / "root"),
            "ports": [] if self.shares_network else self._ports_out(),
            "network": self.shares_network,
            "hidden": [] if CHECKOUT.is_relative_to(sys.prefix) else [str(CHECKOUT)],
            "visible": list(filter(None, (sys.prefix, sys.base_prefix, read_stated_variable(INHERITED_VARIABLE)))),
            "files": files,
            "binds": binds,
        }

    def _ports_out(self) -> list[int]:
        """Return the ports of this machine that a container can reach: ours, web endpoints, and those let through."""
        urls = [url for function in self.state.functions.values() for url in function.urls.values()]
        ports = {int(url.rpartition(":")[2]) for url in (self.server_url, self.address, *urls)}
        return sorted(ports | set(self.let_through))

    def _environment(self, container: Container) -> dict[str, str]:
        """Return the image's ENV, then the secrets, then what Modal sets.

        modal.com/docs/guide/environment_variables
        """
        spec = container.function.spec
        environment = {
            "PATH": read_stated_variable("PATH"),
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
        }
        if inherited := read_stated_variable(INHERITED_VARIABLE):
            environment[INHERITED_VARIABLE] = inherited
        for layer in self.layers(spec.image_id):
            if match := re.match(r"ENV\s+([A-Za-z_]\w*)[= ](.*)", layer):
                environment[match[1]] = shlex.split(match[2])[0] if match[2].strip() else ""
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
            "MODAL_OVERRIDE_HEADERS": f"x-rehearsal-container:{container.id},{TOKEN_HEADER}:{self.access.token}",
            "PYTHONPATH": "/root",
        }

    def _entrypoint_arguments(self, container: Container) -> pb.ContainerArguments:
        function = container.function
        return pb.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=function.app.id,
            function_def=function.spec,
            serialized_params=function.parameters,
            environment_name="main",
            app_layout=self.app_layout(function.app),
        )
