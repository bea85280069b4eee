"""The connections of an identity that was revoked end at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Client
from rap.errors import CallError, Code, RapError, Unauthenticated
from rap.server import Channel, Server, context
from rap.wire.frames import DATA, GOAWAY, RESET, read_go_away
from tests.loopback import eventually, serving, within
from tests.server.test_authentication import connected, frames_of, opening

ON_BOTH_LOOPS = True

USERS = {"a": "alice", "b": "bob"}


async def who() -> str:
    peer = context.call.peer
    assert peer is not None
    return str(peer.identity)


class Waiting:
    """Functions that wait, and note how they ended."""

    def __init__(self) -> None:
        self.began = 0
        self.ended: list[str] = []

    async def wait(self, name: str) -> None:
        self.began += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(name)

    async def unary(self) -> None:
        await self.wait("unary")

    async def items(self) -> AsyncIterator[int]:
        yield 1
        await self.wait("items")

    async def talk(self, channel: Channel) -> None:
        await self.wait("talk")


async def test_the_calls_of_a_revoked_identity_end_and_those_of_others_go_on() -> None:
    users, waiting = dict(USERS), Waiting()
    async with serving(
        who, waiting.unary, waiting.items, waiting.talk, verify_token=users.get
    ) as server:
        alice = Client(server.addresses, token="a")
        await alice.connect()

        async def iterate() -> list[int]:
            return [item async for item in alice.iterator_call("items")]

        async def talk() -> None:
            async with alice.channel("talk") as channel:
                await channel.read_body()

        calls = [
            asyncio.create_task(each)
            for each in (alice.raw_call("unary", timeout=60), iterate(), talk())
        ]
        async with Client(server.addresses, token="b") as bob:
            await eventually(lambda: waiting.began == 3)
            del users["a"]
            assert server.revoke("alice") == 1
            await eventually(lambda: sorted(waiting.ended) == ["items", "talk", "unary"])
            errors = await within(asyncio.gather(*calls, return_exceptions=True))
            assert all(isinstance(each, RapError) for each in errors), errors
            assert all(
                isinstance(each, CallError) and each.code == Code.UNAUTHENTICATED for each in errors
            ), errors
            assert await bob.raw_call("who") == "bob"
            with pytest.raises(Unauthenticated):
                await alice.raw_call("who")
        await alice.await_close()


async def test_a_client_that_ignores_the_goaway_is_cut_and_not_served() -> None:
    served: list[int] = []

    async def note() -> None:
        served.append(1)

    async with serving(note, verify_token=USERS.get) as server:
        reader, writer = await connected(server)
        writer.write(opening("a"))
        kinds, revoked = [], 0
        async for frame in frames_of(reader):
            kinds.append(frame.kind)
            if frame.kind == DATA:
                revoked = server.revoke("alice")
            if frame.kind == GOAWAY:
                assert frame.stream_id == 1
                assert read_go_away(frame.body) == (
                    Code.UNAUTHENTICATED,
                    "the identity was revoked",
                )
        assert revoked == 1
        assert kinds[-1] == GOAWAY  # and the end of the bytes
        assert RESET not in kinds
        assert served == [1]
        writer.close()


async def test_a_token_that_is_being_verified_is_verified_again() -> None:
    users, checking, go_on = dict(USERS), asyncio.Event(), asyncio.Event()

    async def verify(token: str) -> str | None:
        user = users.get(token)
        checking.set()
        await go_on.wait()
        return user

    async with serving(who, verify_token=verify) as server:
        client = Client(server.addresses, token="a")
        connecting = asyncio.create_task(client.connect())
        await within(checking.wait())
        del users["a"]
        server.revoke("alice")
        go_on.set()
        with pytest.raises(Unauthenticated, match="the token was refused"):
            await within(connecting)
        await client.await_close()


@pytest.mark.parametrize(
    ("identity", "revoked"),
    [
        ("alice", 1),
        ("ali", 0),
        ("CN:alice", 0),
        ({"user": "carol"}, 1),
        (lambda peer: peer.identity == "bob", 1),
        (lambda peer: peer.is_local, 3),
    ],
)
async def test_an_identity_is_a_name_a_value_or_a_function(identity: Any, revoked: int) -> None:
    users: dict[str, Any] = {**USERS, "c": {"user": "carol"}}
    async with serving(who, verify_token=users.get) as server:
        clients = [Client(server.addresses, token=token) for token in users]
        for client in clients:
            await client.connect()
        assert server.revoke(identity) == revoked
        for client in clients:
            await client.await_close()


@pytest.mark.parametrize("identity", [None, "dns:a", "IP:x"])
def test_an_identity_that_means_nothing_is_refused(identity: Any) -> None:
    with pytest.raises(ValueError, match=r"identity|write|IP"):
        Server().revoke(identity)


async def test_a_handler_may_revoke_its_own_caller() -> None:
    async def leave() -> None:
        peer = context.call.peer
        assert peer is not None
        server.revoke(peer.identity)
        await asyncio.Event().wait()

    async with serving(leave, verify_token=USERS.get) as server:
        client = Client(server.addresses, token="a")
        await client.connect()
        with pytest.raises(Unauthenticated, match="the identity was revoked"):
            await within(client.raw_call("leave"))
        await client.await_close()
