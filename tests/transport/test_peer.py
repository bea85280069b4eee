import asyncio
import socket
from typing import Any

import pytest

from rap.transport import Connection
from rap.transport.connection import peer_of
from tests.transport.pairs import DEFAULTS, Pair


class Transport(asyncio.Transport):
    """What a loop tells of a transport."""

    def __init__(self, **extra: Any) -> None:
        super().__init__(extra)
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


@pytest.mark.parametrize("name", ["", None, b"", "/run/x.sock"])
def test_a_peer_on_a_unix_socket_is_local(name: object) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        peer = peer_of(Transport(peername=name, socket=sock))
    assert peer is not None
    assert peer.is_local
    assert peer.host == ""


def test_a_tcp_peer_has_its_address() -> None:
    with socket.socket() as sock:
        peer = peer_of(Transport(peername=("192.0.2.7", 4711), socket=sock))
    assert peer is not None
    assert (peer.host, peer.port, peer.is_local) == ("192.0.2.7", 4711, False)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_tcp_peer_that_has_left_does_not_pass_for_a_local_one(family: int) -> None:
    with socket.socket(family) as sock:
        assert peer_of(Transport(peername=None, socket=sock)) is None


async def test_a_connection_whose_peer_has_left_is_cut_before_a_byte_is_read() -> None:
    pair = Pair(DEFAULTS, DEFAULTS, None)
    conn: Connection = pair.make_server()
    with socket.socket() as sock:
        transport = Transport(peername=None, socket=sock)
        conn.connection_made(transport)
    assert transport.aborted
    conn.connection_lost(None)
    assert "the peer disconnected at once" in str(conn.error)
