from collections.abc import AsyncIterator, Iterator

import pytest

from rap.client import Client
from rap.server import Server
from tests.client import injected, threaded
from tests.loopback import calling, serving


async def hundred(n: int) -> int:
    return 100


async def one(n: int) -> AsyncIterator[int]:
    yield 1


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        server.register(hundred, "double")
        server.register(hundred, "other", "group")
        server.register(one, "count")
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


@pytest.fixture(autouse=True)
def originals() -> Iterator[None]:
    before = dict(vars(injected))
    yield
    vars(injected).update(before)


async def test_an_injected_function_is_called_remotely_until_it_recovers(client: Client) -> None:
    local = injected.double
    assert await injected.use(1) == 2
    stub = client.inject(injected.double)
    assert injected.double is stub
    assert await injected.use(1) == 100
    assert client.get_raw_func(injected.double) is local
    assert await client.get_raw_func(injected.double)(1) == 2
    assert client.recovery(injected.double) is local
    assert injected.double is local
    assert await injected.use(1) == 2


async def test_name_and_group_are_those_of_the_server(client: Client) -> None:
    local = injected.double
    client.inject(local, "other", "group", timeout=5.0, idempotent=True)
    assert await injected.use(1) == 100
    client.recovery(local)
    assert injected.double is local


async def test_generators_are_injected_too(client: Client) -> None:
    client.inject(injected.count)
    assert [i async for i in injected.count(5)] == [1]


async def test_a_function_is_injected_once(client: Client) -> None:
    local = injected.double
    client.inject(local)
    for func in (local, injected.double):
        with pytest.raises(ValueError, match="injected already"):
            client.inject(func)


async def test_a_function_that_is_not_injected_cannot_be_recovered(client: Client) -> None:
    with pytest.raises(ValueError, match="not injected"):
        client.recovery(injected.double)
    assert client.get_raw_func(injected.double) is injected.double


async def test_a_function_inside_another_is_refused(client: Client) -> None:
    async def inner(n: int) -> int:
        return n

    with pytest.raises(ValueError, match="not a function of a module"):
        client.inject(inner)


async def test_a_plain_function_needs_the_blocking_client(client: Client) -> None:
    local = injected.twice
    with pytest.raises(TypeError, match="async def"):
        client.inject(local)
    assert injected.twice is local


def test_the_blocking_client_injects_plain_functions() -> None:
    def hundred(n: int) -> int:
        return 100

    with threaded.serving() as server:
        server.register(hundred, "twice")
        with threaded.calling(server) as client:
            client.inject(injected.twice)
            assert injected.twice(1) == 100
            client.recovery(injected.twice)
            assert injected.twice(1) == 2
