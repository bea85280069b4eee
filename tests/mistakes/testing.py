"""Mistakes in tests of services."""

from typing import Any

from rap import Client, Server, SyncClient
from rap.testing import Fleet, TestClient, fake
from tests.mistakes.calls import shop
from tests.mistakes.catalogue import Scene, mistake

client = Client("stock:9000")


@client.register
async def reserve(sku: str, count: int) -> int: ...  # type: ignore[empty-body]


@client.register
async def release(sku: str) -> int: ...  # type: ignore[empty-body]


@mistake(
    "a fake answers a function that the client does not declare",
    3,
    what="declares no function 'resrve'",
    where="the client",
    remedy="did you mean 'reserve'?",
)
async def fake_undeclared(scene: Scene) -> Any:
    async with fake(client, resrve=1):
        pass


@mistake(
    "the code calls a function that has no fake",
    3,
    what="no fake answers",
    where="default/release",
    remedy="give one to fake()",
)
async def fake_missing(scene: Scene) -> Any:
    async with fake(client, reserve=1):
        await release("hat")


@mistake(
    "a fake returns what the function cannot return",
    3,
    what="got `str`",
    where="reserve(): return value",
    remedy="expected `int`",
)
async def fake_wrong_result(scene: Scene) -> Any:
    async with fake(client, reserve="one"):
        await reserve("hat", 1)


@mistake(
    "a fake is entered without `async`",
    3,
    what="not by `with`",
    where="fakes of a Client",
    remedy="are entered by `async with`",
)
def fake_plain_with(scene: Scene) -> Any:
    with fake(client, reserve=1):
        pass


@mistake(
    "TestClient is given a Client and entered without `async`",
    3,
    what="not by `with`",
    where="a Client",
    remedy="is entered by `async with`",
)
def test_client_plain_with(scene: Scene) -> Any:
    with TestClient(shop(), client=client):
        pass


@mistake(
    "TestClient is given a SyncClient and entered with `async with`",
    3,
    what="not by `async with`",
    where="a SyncClient",
    remedy="is entered by `with`",
)
async def test_client_async_with(scene: Scene) -> Any:
    async with TestClient(shop(), client=SyncClient("localhost:9000")):
        pass


@mistake(
    "a replica is named that the fleet does not have",
    3,
    what="no replica",
    where="'c'",
    remedy="there are a, b",
)
async def fleet_name(scene: Scene) -> Any:
    async with Fleet(Server(), 2) as fleet:
        fleet["c"].kill()
