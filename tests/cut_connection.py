"""A TCP proxy whose connections end after so many bytes, as a network does in the middle of an upload."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class CutConnection:
    """Forwards to `port`; after `limit` bytes to it every connection is closed at once, until `limit` is None."""

    def __init__(self, port: int) -> None:
        self._port, self.limit, self.sent = port, None, 0  # type: tuple[int, int | None, int]
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                upstream = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._pump, args=(upstream, client, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(client, upstream, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if counts:
                    self.sent += len(data)
                    if self.limit is not None and self.sent > self.limit:
                        break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def cut_connection(port: int) -> Iterator[CutConnection]:
    proxy = CutConnection(port)
    try:
        yield proxy
    finally:
        proxy.close()
