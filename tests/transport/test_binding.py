"""The binding of a connection: both sides know it, and no other connection has it."""

from rap.client import Client
from rap.server import Server, context
from rap.transport.connection import channel_binding, new_random
from tests.loopback import calling, serving


async def binding() -> bytes:
    peer = context.request.call.peer
    assert peer is not None
    return peer.binding


async def binding_on_both_sides(server: Server, client: Client) -> tuple[bytes, bytes]:
    theirs = await client.raw_call("binding")
    async with client.session as session:
        assert session.conn is not None
        return session.conn.peer.binding, theirs


async def test_both_sides_of_a_connection_have_one_binding_and_others_another() -> None:
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


def test_a_binding_depends_on_who_said_what() -> None:
    one, two = new_random(), new_random()
    assert channel_binding(one, two) != channel_binding(two, one)
    assert channel_binding(one + b"x", two) != channel_binding(one, b"x" + two)
