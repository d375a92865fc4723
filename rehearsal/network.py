"""Connections out of a container's network: to the control plane, web endpoints and ports that are let through.

A socket belongs to the network in which it was opened, whichever process holds it: `sandbox.py` opens the sockets and
sends them here.
"""

import asyncio
import contextlib
import socket

CHUNK_BYTES = 1 << 16


def receive_sockets(channel: socket.socket, max_sockets: int) -> list[socket.socket]:
    """Return the sockets that a container's launcher opened; none if it failed before."""
    with contextlib.suppress(OSError):
        _, descriptors, _, _ = socket.recv_fds(channel, 16, max_sockets)
        return [socket.socket(fileno=descriptor) for descriptor in descriptors]
    return []


async def relay(listener: socket.socket, port: int) -> asyncio.Server:
    """Forward every connection to `listener` to the same port of this machine's loopback."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        for stream in (writer, far_writer):
            stream.close()

    return await asyncio.start_server(handle, sock=listener)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()  # the other direction may still be open
