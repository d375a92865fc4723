"""What a container's process does before Modal's entrypoint: namespaces of its own, its root, its network.

Run as a script, by path, with `-I -S` and nothing but the standard library: `inside.py SPEC SOCKET`. SPEC is JSON
(`Spec` of tuneline.rehearsal.worker); listening sockets of the new network go back through the descriptor SOCKET.

    launcher   unshares, opens the sockets, passes SIGINT on; its death is everybody's
    init       first process of the new process namespace; mounts, starts the entrypoint, collects orphans
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
CANNOT = 125
"""Exit code: this machine does not allow it."""

libc = ctypes.CDLL(None, use_errno=True)


def main(spec: dict[str, Any], back: socket.socket) -> int:
    libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
    unshare(network=spec["network"])
    listeners = [] if spec["network"] else open_network(spec["ports"])
    socket.send_fds(back, [b"ready"], [listener.fileno() for listener in listeners])
    back.close()
    return passing_signals_on(lambda: init(spec))


def unshare(*, network: bool) -> None:
    """New namespaces; for an ordinary user inside a new user namespace, in which they are root."""
    wanted = NEW_MOUNTS | NEW_PIDS | (0 if network else NEW_NETWORK)
    user, group = os.getuid(), os.getgid()
    if user != 0 or libc.unshare(wanted):
        _checked(libc.unshare(wanted | NEW_USER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", flags=RECURSIVE | PRIVATE)


def open_network(ports: list[int]) -> list[socket.socket]:
    """Loopback, an eth0 for `@modal.web_server`, and a socket on loopback for each port that leads out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sH22x", b"lo", UP))
        with contextlib.suppress(OSError):  # no bridges here: then no web servers (modal._runtime.asgi wants eth0)
            fcntl.ioctl(control, ADD_BRIDGE, b"eth0\0")
            for what, address in ((SET_ADDRESS, "172.20.0.2"), (SET_MASK, "255.255.255.0")):
                inet = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(control, what, struct.pack("16s16s8x", b"eth0", inet))
            fcntl.ioctl(control, SET_FLAGS, struct.pack("16sH22x", b"eth0", UP))
    listeners = [socket.create_server(("127.0.0.1", port), backlog=128) for port in ports]
    return listeners


def init(spec: dict[str, Any]) -> int:
    root = Root(Path(spec["root"]))
    for hidden in spec["hidden"]:
        root.hide(Path(hidden))
    for kept in spec["kept"]:
        root.show(Path(kept))
    for source, target, mode in spec["files"]:
        root.put(Path(source), Path(target), mode)
    for source, target, read_only in sorted(spec["binds"], key=lambda one: one[1].count("/")):
        root.mount(Path(source), Path(target), read_only=read_only)
    folder = root.make(Path(spec["folder"])).relative_to(root.place)

    def entrypoint() -> int:
        os.chroot(root.place)
        os.chdir(Path("/") / folder)
        os.execve(spec["command"][0], spec["command"], spec["environment"])

    return passing_signals_on(entrypoint)


class Root:
    """The container's file system: this machine's, read-only, with own folders where something is to be put."""

    def __init__(self, place: Path) -> None:
        self.place = place
        mount("tmpfs", place, "tmpfs")
        self.own = {Path("/")}
        self._bind_children(Path("/"), leaving_out=("root", "tmp", "proc", "__modal"))
        for path in ("/root", "/tmp"):
            self.make(Path(path))
        (place / "proc").mkdir()
        try:
            mount("proc", place / "proc", "proc")
        except OSError:  # masked, as in a container of somebody else's
            bind(Path("/proc"), place / "proc")

    def make(self, path: Path) -> Path:
        """An own folder; what the machine has in it and in those above it stays to be seen."""
        if path not in self.own:
            self.make(path.parent)
            if self.at(path).is_dir():
                mount("tmpfs", self.at(path), "tmpfs")
                self._bind_children(path)
            else:
                self.at(path).mkdir()
            self.own.add(path)
        return self.at(path)

    def hide(self, path: Path) -> None:
        """What the machine has there is not to be seen."""
        if path not in self.own and self.at(path).is_dir():
            mount("tmpfs", self.at(path), "tmpfs")
            self.own.add(path)

    def show(self, path: Path) -> None:
        """What the machine has there is to be seen, though it lies in a folder that is hidden."""
        if path.is_dir() and not self.at(path).exists():
            self.make(path.parent)
            self.at(path).mkdir()
            bind(path, self.at(path))

    def put(self, source: Path, path: Path, mode: int) -> None:
        shutil.copyfile(source, self.make(path.parent) / path.name)
        self.at(path).chmod(mode or 0o644)

    def mount(self, source: Path, path: Path, *, read_only: bool) -> None:
        self.make(path.parent)
        self.at(path).mkdir(exist_ok=True)
        bind(source, self.at(path))
        self.own.add(path)
        if read_only:
            mount("none", self.at(path), flags=REMOUNT | BIND | READ_ONLY)

    def at(self, path: Path) -> Path:
        return self.place / path.relative_to("/")

    def _bind_children(self, path: Path, leaving_out: tuple[str, ...] = ()) -> None:
        for child in sorted(path.iterdir()):
            here = self.at(child)
            if child.is_symlink():
                here.symlink_to(child.readlink())
            elif child.name not in leaving_out and (child.is_dir() or child.is_file()):
                here.mkdir() if child.is_dir() else here.touch()
                bind(child, here)
                if str(child) not in ("/dev", "/run", "/sys"):
                    protect(here)


def protect(target: Path) -> None:
    """Read-only, with all that is mounted below; Linux before 5.12 cannot, and then it is not."""
    attributes = struct.pack("QQQQ", 1, 0, 0, 0)
    libc.syscall(MOUNT_SETATTR, FROM_HERE, str(target).encode(), ALL_BELOW, attributes, len(attributes))


def passing_signals_on(what: Any) -> int:
    """Fork; `what` in the child; its exit code here, 128 and more for a signal. SIGINT goes to the child."""
    child = os.fork()
    if child == 0:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os._exit(_told(what))
    signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def bind(source: Path, target: Path) -> None:
    mount(source, target, flags=BIND | RECURSIVE)


def mount(source: Path | str, target: Path | str, kind: str = "", flags: int = 0) -> None:
    words = (str(source).encode(), str(target).encode(), kind.encode() or None)
    _checked(libc.mount(*words, ctypes.c_ulong(flags), None), f"mount {source} at {target}")


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _told(what: Any) -> int:
    try:
        return int(what())
    except OSError as error:
        sys.stderr.write(f"the container could not start: {error}\n")
        sys.stderr.flush()
        return CANNOT


if __name__ == "__main__":
    arguments = json.loads(Path(sys.argv[1]).read_text())
    way_back = socket.socket(fileno=int(sys.argv[2]))
    os._exit(_told(lambda: main(arguments, way_back)))
