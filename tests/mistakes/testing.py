"""Mistakes in tests of services."""

from typing import Any

from rap import Client, Server, SyncClient, context
from rap.schema.reflection import describe
from rap.testing import Fleet, TestClient, check_compatible, fake
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
    "the code calls a function that has no fake, and hides the error, in strict mode",
    3,
    what="have no fake",
    where="default/release",
    remedy="give each an answer to fake()",
)
async def fake_strict(scene: Scene) -> Any:
    async with fake(client, reserve=1, strict=True):
        try:
            await release("hat")
        except Exception:
            pass


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
    "a fake with other parameters than the function",
    3,
    what="takes 1 positional argument but 2 were given",
    where="/default/reserve",
    remedy="the fake must take the arguments of reserve(sku: str, count: int)",
)
async def fake_wrong_parameters(scene: Scene) -> Any:
    async with fake(client, reserve=lambda sku: 1):
        await reserve("hat", 1)


@mistake(
    "a fake is read that was not made",
    3,
    what="there is no fake",
    where="'release'",
    remedy="give it one: fake(client, release=...)",
)
async def fake_attribute(scene: Scene) -> Any:
    async with fake(client, reserve=1) as fakes:
        fakes.release.assert_called_once_with("hat")


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
    "TestClient is given an address",
    3,
    what="got 'localhost:<port>'",
    where="TestClient",
    remedy="takes a Server, or a function that makes one",
)
async def test_client_address(scene: Scene) -> Any:
    async with TestClient("localhost:9000"):  # type: ignore[arg-type]
        pass


@mistake(
    "a server is tested that runs already",
    3,
    what="the server runs already",
    where="<Server inproc://",
    remedy="or use its replica()",
)
async def test_client_running(scene: Scene) -> Any:
    server = shop()
    async with TestClient(server), TestClient(server):
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


@mistake(
    "a handler that uses the context is called alone",
    3,
    what="is available only while a handler runs",
    where="context.set_header",
    remedy="call the handler in `with rap.testing.handler_call():`",
)
def handler_without_context(scene: Scene) -> Any:
    context.set_header("tenant", "acme")


@mistake(
    "the description of a contract is missing",
    3,
    what="does not exist",
    where="<folder>/shop.json",
    remedy="write it with `rap describe --json > shop.json`",
)
def contract_missing(scene: Scene) -> Any:
    check_compatible(f"{scene.folder}/shop.json", shop())


@mistake(
    "a contract is broken",
    2,
    what="c is required, and is not sent",
    where="default/add, old clients",
)
def contract_broken(scene: Scene) -> Any:
    new = Server()

    @new.register
    async def add(a: int, b: int, c: int) -> int:
        return a + b + c

    check_compatible([describe(each) for each in shop().handlers], new)
