"""An affinity key keeps calls to one server, while that server is there."""

import pytest

from rap.client import Client
from rap.errors import InvalidArgument
from rap.server import Server
from tests.loopback import LOOPBACK, calling, eventually


def server_named(name: str) -> Server:
    server = Server(LOOPBACK, close_timeout=0.2)

    async def whoami() -> str:
        return name

    server.register(whoami)
    return server


async def all_ready(client: Client, count: int) -> None:
    await eventually(lambda: len(client.cluster.ready) == count)


async def test_calls_with_one_key_go_to_one_server_and_keys_spread() -> None:
    async with server_named("a") as a, server_named("b") as b, server_named("c") as c:
        async with calling(a, b, c, picker="rendezvous") as client:

            @client.register()
            async def whoami() -> str:
                return ""

            await all_ready(client, 3)
            owners = {}
            for key in map(str, range(40)):
                seen = {await whoami(affinity=key) for _ in range(3)}  # type: ignore[call-arg]  # an option of the call
                seen.add(await client.raw_call("whoami", affinity=key))
                assert len(seen) == 1
                owners[key] = seen.pop()
            assert set(owners.values()) == {"a", "b", "c"}


async def test_only_the_keys_of_a_lost_server_move() -> None:
    async with server_named("a") as a, server_named("b") as b:
        c = await server_named("c").create_server()
        async with calling(a, b, c, picker="rendezvous") as client:
            await all_ready(client, 3)
            keys = [str(n) for n in range(40)]
            before = {key: await client.raw_call("whoami", affinity=key) for key in keys}
            await c.await_closed()
            await all_ready(client, 2)
            after = {key: await client.raw_call("whoami", affinity=key) for key in keys}
            moved = {key for key in keys if before[key] != after[key]}
            assert moved == {key for key in keys if before[key] == "c"}


async def test_a_key_that_is_no_string_is_refused() -> None:
    async with server_named("a") as a, calling(a) as client:
        with pytest.raises(InvalidArgument, match="affinity must be a string, got 7"):
            await client.raw_call("whoami", affinity=7)  # type: ignore[arg-type]
