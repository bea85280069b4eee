"""A server that fails far more calls than the others of its service is ejected. Real processes."""

import asyncio
import contextlib
import logging
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rap.client import Client
from rap.client.node import Node
from rap.errors import CallError, Code
from tests.loopback import PATIENCE, eventually

PROGRAM = """
import asyncio, logging, sys
from pathlib import Path
logging.disable()
from rap import CallError, Code, Server

ill = Path(sys.argv[1])
number = sys.argv[2]
server = Server("127.0.0.1:0", drain_delay=0, close_timeout=0.1, shed=sys.argv[3] == "shed")

def fail(function):
    for file in (ill, ill.parent / "all"):
        try:
            kind, functions = file.read_text().split(":")
        except FileNotFoundError:
            continue
        if function in functions.split(","):
            return kind
    return ""

async def answer(function):
    kind = fail(function)
    if kind == "UNKNOWN":
        raise RuntimeError("no disk")
    if kind == "DEADLINE_EXCEEDED":
        await asyncio.sleep(60)
    if kind:
        raise CallError("no disk", code=Code[kind])
    return number

@server.register
async def work() -> str:
    return await answer("work")

@server.register
async def other() -> str:
    return await answer("other")

@server.register
async def rows():
    yield await answer("rows")

async def main():
    async with server:
        print(server.addresses[0], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
""".replace("async def rows():", "async def rows() -> __import__('typing').AsyncIterator[str]:")


class Replica:
    """A server process whose functions can be made to fail."""

    def __init__(self, address: str, ill: Path) -> None:
        self.address = address
        self._ill = ill

    def fall_ill(self, kind: str = "UNKNOWN", *functions: str) -> None:
        made = self._ill.with_suffix(".new")
        made.write_text(f"{kind}:{','.join(functions or ('work', 'other', 'rows'))}")
        made.rename(self._ill)

    def heal(self) -> None:
        self._ill.unlink()


@asynccontextmanager
async def replicas(count: int, folder: Path, *, shed: bool = True) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        yield [await _start(n, folder, stack, shed) for n in range(count)]


async def _start(number: int, folder: Path, stack: AsyncExitStack, shed: bool) -> Replica:
    ill = folder / f"ill-{number}"
    arguments = ("-c", PROGRAM, str(ill), str(number), "shed" if shed else "")
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
    stack.push_async_callback(_end, process)
    assert process.stdout is not None
    return Replica((await process.stdout.readline()).decode().strip(), ill)


async def _end(process: Process) -> None:
    process.kill()
    await process.wait()


class Load:
    """Workers that call a function again and again.

    Attributes:
        answers: How many calls each replica has answered.
        errors: How many have failed, by code.
    """

    def __init__(self, client: Client, function: str = "work", **options: Any) -> None:
        self.answers: Counter[str] = Counter()
        self.errors: Counter[Code] = Counter()
        self._client = client
        self._function = function
        self._options = options
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._work()) for _ in range(6)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def make(self, count: int) -> None:
        """Return when so many more calls have ended."""
        end = self.ended + count
        await eventually(lambda: self.ended >= end)

    @property
    def ended(self) -> int:
        return self.answers.total() + self.errors.total()

    async def _work(self) -> None:
        while True:
            try:
                self.answers[await self._client.raw_call(self._function, **self._options)] += 1
            except CallError as error:
                self.errors[error.code] += 1
            await asyncio.sleep(0.002)


def node_of(client: Client, replica: Replica) -> Node:
    return client.cluster.nodes[replica.address]


def ejected(client: Client) -> set[str]:
    return {node.key for node in client.cluster.nodes.values() if node.state == "ejected"}


@asynccontextmanager
async def calling(found: Iterable[Replica], **options: Any) -> AsyncIterator[Client]:
    addresses = [each.address for each in found]
    async with Client(addresses, **{"slow_start": 0, **options}) as client:
        await eventually(lambda: len(client.cluster.ready) == len(addresses))
        yield client


@pytest.mark.parametrize(
    ("kind", "picker"),
    [("UNKNOWN", "p2c"), ("INTERNAL", "round_robin")],  # p2c asks the other one hardly any more
)
async def test_one_of_five_that_fails_is_ejected_and_comes_back_when_it_has_healed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, picker: str
) -> None:
    async with (
        replicas(5, tmp_path) as found,
        calling(found, picker=picker) as client,
        Load(client) as load,
    ):
        await load.make(200)
        assert load.errors.total() == 0
        found[2].fall_ill(kind)
        await eventually(lambda: ejected(client))
        assert ejected(client) == {found[2].address}
        assert len(client.cluster.ready) == 4
        (record,) = [it for it in caplog.records if "is ejected for" in it.getMessage()]
        assert record.levelno == logging.WARNING
        assert re.search(
            rf"{found[2].address} is ejected for [\d.]+ s: \d+ of \d+ calls failed, most of "
            r"/default/work; at other servers 0 of \d+",
            record.getMessage(),
        )
        assert "calls failed, most of /default/work" in node_of(client, found[2]).describe()
        assert (client.cluster.counters.ejections, client.cluster.counters.outliers) == (1, 1)
        errors = load.errors.total()
        load.answers.clear()
        await load.make(200)
        assert load.errors.total() - errors <= 6  # what was in flight
        await eventually(lambda: load.answers.keys() == {"0", "1", "3", "4"})
        found[2].heal()
        load.answers.clear()
        await eventually(lambda: load.answers["2"] >= 10)
        assert ejected(client) == set()
        assert len(client.cluster.ready) == 5


async def test_a_probe_that_fails_makes_the_next_ejection_longer(tmp_path: Path) -> None:
    async with replicas(3, tmp_path) as found, calling(found) as client, Load(client) as load:
        found[0].fall_ill()
        node = node_of(client, found[0])
        await eventually(lambda: client.cluster.counters.ejections == 1)
        await eventually(lambda: client.cluster.counters.ejections == 2)
        assert node.breaker.left(client.monotonic()) > 4.5
        assert load.errors.total() < load.answers.total() / 10


async def test_one_of_two_that_fails_is_ejected(tmp_path: Path) -> None:
    async with replicas(2, tmp_path) as found, calling(found) as client, Load(client) as load:
        found[1].fall_ill()
        await eventually(lambda: ejected(client))
        assert ejected(client) == {found[1].address}
        load.answers.clear()
        await load.make(50)
        assert load.answers.keys() == {"0"}


@pytest.mark.parametrize("kind", ["UNKNOWN", "INTERNAL", "UNAVAILABLE"])
async def test_one_bad_function_on_all_ejects_none(tmp_path: Path, kind: str) -> None:
    async with (
        replicas(3, tmp_path) as found,
        calling(found, max_attempts=1) as client,
        Load(client, "work") as bad,
        Load(client, "other") as good,
    ):
        Replica("", tmp_path / "all").fall_ill(kind, "work")
        await bad.make(300)
        await good.make(300)
        assert bad.errors[Code[kind]] >= 300
        assert good.errors.total() == 0
        assert client.cluster.counters.ejections == 0
        await eventually(lambda: good.answers.keys() == {"0", "1", "2"})


@pytest.mark.parametrize("shed", [True, False])
async def test_a_function_that_hangs_on_all_ejects_none(tmp_path: Path, shed: bool) -> None:
    async with (
        replicas(3, tmp_path, shed=shed) as found,
        calling(found, max_attempts=1) as client,
    ):
        Replica("", tmp_path / "all").fall_ill("DEADLINE_EXCEEDED", "work")
        async with Load(client, "work", timeout=0.05) as late:
            await late.make(100)
        # Servers that shed load refuse calls once they know that the function hangs.
        refused = late.errors[Code.RESOURCE_EXHAUSTED] if shed else 0
        assert late.errors[Code.DEADLINE_EXCEEDED] == late.ended - refused > 0
        assert client.cluster.counters.ejections == 0


async def test_one_whose_function_hangs_is_ejected(tmp_path: Path) -> None:
    async with (
        replicas(3, tmp_path) as found,
        calling(found, max_attempts=1, picker="round_robin") as client,
        Load(client, "work", timeout=0.3),
        Load(client, "other"),
    ):
        found[0].fall_ill("DEADLINE_EXCEEDED", "work")
        await eventually(lambda: client.cluster.counters.outliers)
        assert ejected(client) == {found[0].address}


async def test_one_function_that_fails_on_one_replica_gets_that_ejected(tmp_path: Path) -> None:
    async with (
        replicas(3, tmp_path) as found,
        calling(found) as client,
        Load(client, "work") as bad,
        Load(client, "other") as good,
    ):
        found[0].fall_ill("UNKNOWN", "work")
        await eventually(lambda: ejected(client))
        assert ejected(client) == {found[0].address}
        assert good.errors.total() == 0
        assert bad.errors.total() > 0


async def test_a_bad_function_that_only_one_replica_is_asked_for_ejects_none(
    tmp_path: Path,
) -> None:
    async with (
        replicas(3, tmp_path) as found,
        calling(found, picker="rendezvous") as client,
        Load(client, "work", affinity="key") as bad,
        Load(client, "other"),
    ):
        Replica("", tmp_path / "all").fall_ill("UNKNOWN", "work")
        await bad.make(300)
        assert client.cluster.counters.ejections == 0


async def test_calls_of_a_session_say_nothing_of_its_server(tmp_path: Path) -> None:
    async with replicas(3, tmp_path) as found, calling(found) as client, Load(client, "other"):
        Replica("", tmp_path / "all").fall_ill("UNKNOWN", "work")
        async with client.session as session:
            for _ in range(50):
                with pytest.raises(CallError):
                    await client.raw_call("work", session=session)
        assert client.cluster.counters.ejections == 0


async def test_a_few_calls_are_not_judged(tmp_path: Path) -> None:
    async with replicas(2, tmp_path) as found, calling(found) as client:
        found[0].fall_ill()
        failed = 0
        for _ in range(8):
            try:
                await client.raw_call("work")
            except CallError:
                failed += 1
        assert client.cluster.counters.ejections == 0
        assert client.cluster.ready == tuple(client.cluster.nodes.values())


async def test_where_all_fail_all_are_used(tmp_path: Path) -> None:
    async with replicas(3, tmp_path) as found, calling(found) as client, Load(client) as load:
        database = Replica("", tmp_path / "all")  # behind all of them
        database.fall_ill()
        errors = load.errors.total()
        await eventually(lambda: load.errors.total() >= errors + 300)
        assert client.cluster.counters.ejections == 0
        assert len(client.cluster.ready) == 3
        database.heal()
        load.answers.clear()
        await eventually(lambda: load.answers.keys() == {"0", "1", "2"})
        assert client.cluster.counters.ejections == 0


async def test_of_five_of_which_four_fail_one_at_a_time_is_ejected(tmp_path: Path) -> None:
    async with replicas(5, tmp_path) as found, calling(found) as client, Load(client) as load:
        await load.make(200)
        for each in found[:4]:
            each.fall_ill()
        await eventually(lambda: ejected(client))
        assert len(ejected(client)) == 1
        assert found[4].address not in ejected(client)
        assert len(client.cluster.ready) >= 4


async def test_hedged_calls_are_compared_too(tmp_path: Path) -> None:
    async def work() -> str: ...  # type: ignore[empty-body]  # declared only

    async with replicas(3, tmp_path) as found, calling(found, picker="round_robin") as client:
        stub = client.register(idempotent=True, hedge=5.0)(work)
        found[1].fall_ill()
        async with asyncio.timeout(PATIENCE):
            while not ejected(client):
                with contextlib.suppress(CallError):
                    await stub()
        assert ejected(client) == {found[1].address}


async def test_generators_are_compared_by_their_first_item(tmp_path: Path) -> None:
    async with replicas(3, tmp_path) as found, calling(found) as client:
        codes: set[Code] = set()
        found[1].fall_ill("UNKNOWN", "rows")
        async with asyncio.timeout(PATIENCE):
            while not ejected(client):
                try:
                    async for _ in client.iterator_call("rows"):
                        pass
                except CallError as error:
                    codes.add(error.code)
        assert ejected(client) == {found[1].address}
        assert codes == {Code.UNKNOWN}


async def test_a_server_that_restarts_is_not_judged_by_its_former_process(tmp_path: Path) -> None:
    async with replicas(2, tmp_path) as found, calling(found) as client, Load(client) as load:
        found[1].fall_ill()
        await eventually(lambda: ejected(client))
        node = node_of(client, found[1])
        found[1].heal()
        node.reset("next")
        assert node.state != "ejected"
        load.answers.clear()
        await eventually(lambda: load.answers["1"])
