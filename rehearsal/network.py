"""The way out of a container's own network: to the plane, its web endpoints and the ports that are let through.

A socket belongs to the network it was opened in, whoever holds it: `inside.py` opens them and sends them here.
"""

import asyncio
import contextlib
import socket

CHUNK = 1 << 16


def received(way_back: socket.socket, most: int) -> list[socket.socket]:
    """The sockets a container's launcher opened; none if it did not come that far."""
    with contextlib.suppress(OSError):
        _, descriptors, _, _ = socket.recv_fds(way_back, 16, most)
        return [socket.socket(fileno=descriptor) for descriptor in descriptors]
    return []


async def relay(listener: socket.socket, port: int) -> asyncio.Server:
    """Pass every connection to `listener` on to the same port of this machine's loopback."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))
        for end in (writer, far_writer):
            end.close()

    return await asyncio.start_server(connected, sock=listener)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(CHUNK):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()  # the other direction may still have something to say
