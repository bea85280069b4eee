"""A server that records what clients send to it, to show that they send nothing."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rap.address import Address

__all__ = ["Recorder", "recording"]

_PATIENCE = 10.0  # seconds for a client to end its connection


class Recorder:
    """What clients have sent, in all connections together.

    Args:
        sock: A socket that listens.
        context: TLS context; `None` without TLS.
        hangs_up: End each connection after the first bytes, so that no client waits for an answer.

    Attributes:
        ended: Number of connections that have ended, or never got beyond their TLS handshake.
        received: The bytes that came, after TLS.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext | None, *, hangs_up: bool = False
    ) -> None:
        self.ended = 0
        self.received = b""
        self._sock = sock
        self._lock = threading.Lock()
        self._context = context
        self._hangs_up = hangs_up
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        """Where it listens."""
        name = self._sock.getsockname()
        if isinstance(name, str):
            return Address("unix", path=name)
        return Address("tcp" if self._context is None else "tls", name[0], name[1])

    def close(self) -> None:
        """Stop; wait for the thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._record, args=(conn,), daemon=True).start()

    def _record(self, conn: socket.socket) -> None:
        conn.settimeout(_PATIENCE)
        with contextlib.suppress(OSError):
            if self._context is not None:
                conn = self._context.wrap_socket(conn, server_side=True)
            while data := conn.recv(65536):
                with self._lock:
                    self.received += data
                if self._hangs_up:
                    break
        conn.close()
        with self._lock:
            self.ended += 1


@contextmanager
def recording(
    context: ssl.SSLContext | None = None,
    *,
    host: str = "127.0.0.1",
    path: Path | None = None,
    hangs_up: bool = False,
) -> Iterator[Recorder]:
    """Record on a free port, or on a unix socket."""
    with socket.socket(socket.AF_INET if path is None else socket.AF_UNIX) as sock:
        sock.bind((host, 0) if path is None else str(path))
        sock.listen(1024)
        recorder = Recorder(sock, context, hangs_up=hangs_up)
        try:
            yield recorder
        finally:
            recorder.close()
