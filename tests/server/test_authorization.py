from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.call import Call
from rap.client import Client
from rap.errors import PermissionDenied, RegistrationError
from rap.server import Channel, Server
from rap.server.authorization import names_of
from tests.loopback import LOOPBACK, serving

CERTIFICATE = {
    "subject": ((("countryName", "XY"),), (("commonName", "ops"),)),
    "subjectAltName": (("DNS", "ops.example"), ("URI", "spiffe://example/ops"), ("DirName", ())),
}


async def one() -> int:
    return 1


async def items() -> AsyncIterator[int]:
    yield 1


async def talk(channel: Channel) -> None:
    await channel.write(1)


class Group:
    async def first(self) -> int:
        return 1

    async def second(self) -> int:
        return 2


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(verify_token=lambda token: token) as server:
        yield server


def called(server: Server, name: str) -> Client:
    return Client(server.addresses, token=name)


async def test_only_the_named_clients_may_call(server: Server) -> None:
    server.register(one, allow={"alice", "bob"})
    async with called(server, "bob") as bob:
        assert await bob.raw_call("one") == 1
    async with called(server, "carol") as carol:
        with pytest.raises(PermissionDenied, match=r"/default/one: this client may not call it"):
            await carol.raw_call("one")


async def test_a_rule_applies_to_all_stream_types(server: Server) -> None:
    server.register(items, allow={"alice"})
    server.register(talk, allow={"alice"})
    async with called(server, "carol") as carol:
        with pytest.raises(PermissionDenied):
            await anext(carol.iterator_call("items"))

        @carol.register("talk")
        async def remote(channel: Channel) -> Any:
            return await channel.read_body()

        untyped: Any = remote
        with pytest.raises(PermissionDenied):
            await untyped()
    async with called(server, "alice") as alice:
        assert [i async for i in alice.iterator_call("items")] == [1]


async def test_a_rule_function_receives_the_call(server: Server) -> None:
    seen: list[Call] = []

    def rule(call: Call) -> bool:
        seen.append(call)
        return call.header.get("reason") == "audit"

    server.register(one, allow=rule)
    async with called(server, "alice") as alice:
        assert await alice.raw_call("one", header={"reason": "audit"}) == 1
        with pytest.raises(PermissionDenied):
            await alice.raw_call("one", header={"reason": "none"})
    assert seen[0].method == "/default/one"
    assert seen[0].peer is not None
    assert seen[0].peer.identity == "alice"


@pytest.mark.parametrize("answer", [None, 1, "yes", object()])
async def test_only_true_allows(server: Server, answer: object) -> None:
    server.register(one, allow=lambda call: answer)
    async with called(server, "alice") as alice:
        with pytest.raises(PermissionDenied):
            await alice.raw_call("one")


async def test_a_rule_that_raises_refuses_the_call(server: Server) -> None:
    def rule(call: Call) -> bool:
        raise LookupError("no rule today")

    ran: list[int] = []

    async def note() -> None:
        ran.append(1)

    server.register(note, allow=rule)
    async with called(server, "alice") as alice:
        with pytest.raises(LookupError, match="no rule today"):
            await alice.raw_call("note")
    assert ran == []


async def test_a_rule_of_an_object_applies_to_its_methods(server: Server) -> None:
    server.register(Group(), allow={"alice"})
    async with called(server, "bob") as bob:
        for name in ("first", "second"):
            with pytest.raises(PermissionDenied):
                await bob.raw_call(name, group="Group")


async def test_a_rule_of_a_group_applies_to_present_and_future_functions(server: Server) -> None:
    server.register(one, "before", "g")
    server.allow_group("g", {"alice", "bob"})
    server.register(one, "after", "g", allow={"alice"})
    server.register(one)
    server.allow_group("g", lambda call: "reason" in call.header)
    why = {"reason": "audit"}
    async with called(server, "bob") as bob:
        assert await bob.raw_call("before", group="g", header=why) == 1
        assert await bob.raw_call("one") == 1
        for name, header in [("before", None), ("after", why)]:
            with pytest.raises(PermissionDenied):
                await bob.raw_call(name, group="g", header=header)
    async with called(server, "alice") as alice:
        assert await alice.raw_call("after", group="g", header=why) == 1


async def test_a_reloaded_function_keeps_its_rule() -> None:
    async with serving(allow_load=True) as server:
        server.register(one, allow={"alice"})
        async with Client(server.addresses) as client:
            await client.raw_call("reload", __name__, "one", group="registry")
            with pytest.raises(PermissionDenied):
                await client.raw_call("one")


@pytest.mark.parametrize("allow", ["alice", b"alice", 3, {""}, {3}, iter(["alice"])])
def test_an_invalid_rule_is_refused(allow: Any) -> None:
    server = Server(LOOPBACK)
    with pytest.raises(RegistrationError, match="allow"):
        server.register(one, allow=allow)
    with pytest.raises(RegistrationError, match="allow"):
        server.allow_group("g", allow)


def test_an_async_rule_is_refused() -> None:
    async def rule(call: Call) -> bool:
        return True

    with pytest.raises(RegistrationError, match="is async"):
        Server(LOOPBACK).register(one, allow=rule)


def test_a_group_needs_a_rule() -> None:
    nothing: Any = None
    with pytest.raises(RegistrationError, match="got None"):
        Server(LOOPBACK).allow_group("g", nothing)


def test_the_names_of_an_identity() -> None:
    assert names_of("alice") == {"alice"}
    assert names_of(CERTIFICATE) == {"ops", "ops.example", "spiffe://example/ops"}
    assert names_of(None) == names_of(3) == names_of({}) == frozenset()
