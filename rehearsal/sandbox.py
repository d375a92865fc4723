"""The sandbox of a container's process: Linux namespaces, root file system and network, set up before the entrypoint.

Run as a script, by path, with `-I -S` and nothing but the standard library: `sandbox.py SPEC SOCKET`. SPEC is a JSON
file (`SandboxSpec` of tuneline.rehearsal.worker); listening sockets of the new network are sent through the descriptor
SOCKET.

    launcher   unshares, opens the sockets, forwards SIGINT; when it dies, all processes below it die
    init       first process of the new process namespace; mounts, starts the entrypoint, reaps orphans
    entrypoint Modal's own
"""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

# linux/sched.h, linux/mount.h, linux/prctl.h
NEW_MOUNTS, NEW_USER, NEW_PIDS, NEW_NETWORK = 0x00020000, 0x10000000, 0x20000000, 0x40000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
DIE_WITH_PARENT = 1
MOUNT_SETATTR, FROM_HERE, ALL_BELOW = 442, -100, 0x8000
# linux/sockios.h
SET_FLAGS, SET_ADDRESS, SET_MASK, ADD_BRIDGE = 0x8914, 0x8916, 0x891C, 0x89A0
UP = 1
CANNOT_START = 125
"""Exit code: this machine does not allow the sandbox."""

libc = ctypes.CDLL(None, use_errno=True)


def main(spec: dict[str, Any], channel: socket.socket) -> int:
    libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
    unshare(network=spec["network"])
    listeners = [] if spec["network"] else open_network(spec["ports"])
    socket.send_fds(channel, [b"ready"], [listener.fileno() for listener in listeners])
    channel.close()
    return run_in_child(lambda: init(spec))


def unshare(*, network: bool) -> None:
    """Enter new namespaces; an ordinary user also enters a new user namespace, in which they are root."""
    namespaces = NEW_MOUNTS | NEW_PIDS | (0 if network else NEW_NETWORK)
    user, group = os.getuid(), os.getgid()
    if user != 0 or libc.unshare(namespaces):
        _check(libc.unshare(namespaces | NEW_USER), "unshare")
        Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="utf-8")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="utf-8")
    mount("none", "/", flags=RECURSIVE | PRIVATE)


def open_network(ports: list[int]) -> list[socket.socket]:
    """Set up loopback and an eth0 (for `@modal.web_server`), and return a listener on loopback for each of `ports`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sH22x", b"lo", UP))
        with contextlib.suppress(OSError):  # no bridges here, so no web servers (modal._runtime.asgi needs eth0)
            fcntl.ioctl(control, ADD_BRIDGE, b"eth0\0")
            for request, address in ((SET_ADDRESS, "172.20.0.2"), (SET_MASK, "255.255.255.0")):
                inet = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(control, request, struct.pack("16s16s8x", b"eth0", inet))
            fcntl.ioctl(control, SET_FLAGS, struct.pack("16sH22x", b"eth0", UP))
    return [socket.create_server(("127.0.0.1", port), backlog=128) for port in ports]


def init(spec: dict[str, Any]) -> int:
    """Build the root file system, run the entrypoint in it, and return its exit code."""
    root = Root(Path(spec["root"]))
    for hidden in spec["hidden"]:
        root.hide(Path(hidden))
    for visible in spec["visible"]:
        root.show(Path(visible))
    for source, target, mode in spec["files"]:
        root.put(Path(source), Path(target), mode)
    for source, target, read_only in sorted(spec["binds"], key=lambda bind: bind[1].count("/")):
        root.mount(Path(source), Path(target), read_only=read_only)
    folder = root.make(Path(spec["folder"])).relative_to(root.mount_point)

    def entrypoint() -> int:
        os.chroot(root.mount_point)
        os.chdir(Path("/") / folder)
        os.execve(spec["command"][0], spec["command"], spec["environment"])

    return run_in_child(entrypoint)


class Root:
    """The container's file system: this machine's, read-only, with writable folders where something is put."""

    def __init__(self, mount_point: Path) -> None:
        self.mount_point = mount_point
        mount("tmpfs", mount_point, "tmpfs")
        self.writable = {Path("/")}
        self._bind_children(Path("/"), exclude=("root", "tmp", "proc", "__modal"))
        for path in ("/root", "/tmp"):
            self.make(Path(path))
        (mount_point / "proc").mkdir()
        try:
            mount("proc", mount_point / "proc", "proc")
        except OSError:  # /proc is masked, as in a container
            bind(Path("/proc"), mount_point / "proc")

    def make(self, path: Path) -> Path:
        """Make a writable folder, in which this machine's files stay visible, and return its path before the chroot."""
        if path not in self.writable:
            self.make(path.parent)
            if self.at(path).is_dir():
                mount("tmpfs", self.at(path), "tmpfs")
                self._bind_children(path)
            else:
                self.at(path).mkdir()
            self.writable.add(path)
        return self.at(path)

    def hide(self, path: Path) -> None:
        """Hide this machine's files in a folder."""
        if path not in self.writable and self.at(path).is_dir():
            mount("tmpfs", self.at(path), "tmpfs")
            self.writable.add(path)

    def show(self, path: Path) -> None:
        """Make a folder of this machine visible again inside a hidden one."""
        if path.is_dir() and not self.at(path).exists():
            self.make(path.parent)
            self.at(path).mkdir()
            bind(path, self.at(path))

    def put(self, source: Path, path: Path, mode: int) -> None:
        """Copy a file to `path`."""
        shutil.copyfile(source, self.make(path.parent) / path.name)
        self.at(path).chmod(mode or 0o644)

    def mount(self, source: Path, path: Path, *, read_only: bool) -> None:
        """Bind a folder of this machine at `path`."""
        self.make(path.parent)
        self.at(path).mkdir(exist_ok=True)
        bind(source, self.at(path))
        self.writable.add(path)
        if read_only:
            mount("none", self.at(path), flags=REMOUNT | BIND | READ_ONLY)

    def at(self, path: Path) -> Path:
        """Return the path before the chroot of a path in the container."""
        return self.mount_point / path.relative_to("/")

    def _bind_children(self, path: Path, exclude: tuple[str, ...] = ()) -> None:
        for child in sorted(path.iterdir()):
            target = self.at(child)
            if child.is_symlink():
                target.symlink_to(child.readlink())
            elif child.name not in exclude and (child.is_dir() or child.is_file()):
                target.mkdir() if child.is_dir() else target.touch()
                bind(child, target)
                if str(child) not in ("/dev", "/run", "/sys"):
                    protect(target)


def protect(target: Path) -> None:
    """Make a mount read-only with all mounts below it; a no-op on Linux before 5.12."""
    attributes = struct.pack("QQQQ", 1, 0, 0, 0)
    libc.syscall(MOUNT_SETATTR, FROM_HERE, str(target).encode(), ALL_BELOW, attributes, len(attributes))


def run_in_child(function: Any) -> int:
    """Run a function in a forked child and return its exit code, 128 + N for signal N. SIGINT is forwarded to it."""
    child = os.fork()
    if child == 0:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os._exit(_exit_code(function))
    signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def bind(source: Path, target: Path) -> None:
    mount(source, target, flags=BIND | RECURSIVE)


def mount(source: Path | str, target: Path | str, kind: str = "", flags: int = 0) -> None:
    arguments = (str(source).encode(), str(target).encode(), kind.encode() or None)
    _check(libc.mount(*arguments, ctypes.c_ulong(flags), None), f"mount {source} at {target}")


def _check(result: int, action: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{action}: {os.strerror(ctypes.get_errno())}")


def _exit_code(function: Any) -> int:
    """Call a function and return its exit code, or CANNOT_START if this machine does not allow what it does."""
    try:
        return int(function())
    except OSError as error:
        sys.stderr.write(f"the container could not start: {error}\n")
        sys.stderr.flush()
        return CANNOT_START


if __name__ == "__main__":
    sandbox_spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sockets_channel = socket.socket(fileno=int(sys.argv[2]))
    os._exit(_exit_code(lambda: main(sandbox_spec, sockets_channel)))
