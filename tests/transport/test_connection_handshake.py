"""Who is at the other end of a connection, and its channel binding."""

import asyncio
import socket
from typing import Any

import pytest

from rap.client import Client
from rap.server import Server, context
from rap.transport import Connection
from rap.transport.connection import channel_binding, new_random, peer_of
from tests.loopback import calling, serving
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
def test_a_tcp_peer_that_has_left_does_not_count_as_local(family: int) -> None:
    with socket.socket(family) as sock:
        assert peer_of(Transport(peername=None, socket=sock)) is None


async def test_a_connection_whose_peer_has_left_is_aborted_before_a_byte_is_read() -> None:
    pair = Pair(DEFAULTS, DEFAULTS, None)
    conn: Connection = pair.make_server()
    with socket.socket() as sock:
        transport = Transport(peername=None, socket=sock)
        conn.connection_made(transport)
    assert transport.aborted
    conn.connection_lost(None)
    assert "the peer disconnected at once" in str(conn.error)


async def binding() -> bytes:
    peer = context.request.call.peer
    assert peer is not None
    return peer.binding


async def binding_on_both_sides(server: Server, client: Client) -> tuple[bytes, bytes]:
    theirs = await client.raw_call("binding")
    async with client.session as session:
        assert session.conn is not None
        return session.conn.peer.binding, theirs


async def test_both_sides_of_a_connection_have_the_same_binding_and_other_connections_another() -> (
    None
):
    async with serving(binding) as server, calling(server) as one, calling(server) as two:
        ours, theirs = await binding_on_both_sides(server, one)
        assert ours == theirs
        assert len(ours) == 2 * (4 + 16)
        assert ours not in await binding_on_both_sides(server, two)


async def test_the_peer_shares_the_scratch_space_of_its_connection() -> None:
    async with serving(binding) as server, calling(server) as client, client.session as session:
        assert session.conn is not None
        assert session.conn.peer.state is session.conn.state


def test_a_binding_needs_a_random_number_of_both_sides() -> None:
    number = new_random()
    assert channel_binding(number, number)
    assert channel_binding(number, bytes(64))
    for other in (None, b"", number[1:], bytes(65), "x" * 16, 7):
        assert channel_binding(number, other) == b""
        assert channel_binding(other, number) == b""


def test_a_binding_depends_on_the_side_of_each_number() -> None:
    one, two = new_random(), new_random()
    assert channel_binding(one, two) != channel_binding(two, one)
    assert channel_binding(one + b"x", two) != channel_binding(one, b"x" + two)
