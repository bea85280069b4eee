"""The pauses between dials of one server, and dials that hang."""

import asyncio
import logging
import random
from collections.abc import Callable

import pytest

from rap.client import Client
from rap.client.pool import Pool
from rap.errors import Unavailable
from rap.server import Server
from rap.testing import Fleet
from rap.transport import Connection
from tests.client.fed import numbered
from tests.fault_proxy import Fate, FaultProxy
from tests.loopback import eventually, within
from tests.registry.fake_clock import FakeClock, settle


class Dials:
    """Dials that all fail."""

    def __init__(self) -> None:
        self.count = 0
        self.on_failure: Callable[[], None] = lambda: None

    async def __call__(self) -> Connection:
        self.count += 1
        raise Unavailable("nobody there")


def dialling(dials: Dials, clock: FakeClock, seed: int = 1) -> Pool:
    pool = Pool(
        "server",
        dials,
        lambda conn: False,
        max_connections=1,
        clock=clock,
        rng=random.Random(seed),
        on_change=lambda: dials.on_failure(),
    )
    pool.set_wanted(True)
    return pool


async def test_pauses_grow_by_1_6_from_a_second_to_15_and_are_spread_by_a_fifth() -> None:
    grown = [min(1.6**n, 15.0) for n in range(12)]
    shares = []
    for seed in range(20):
        dials, clock = Dials(), FakeClock()
        pool = dialling(dials, clock, seed)
        await settle()
        for _ in grown:
            await clock.run(18.1)
        assert dials.count >= len(grown)
        slept = clock.slept[: len(grown)]
        shares += [pause / whole for pause, whole in zip(slept, grown, strict=True)]
        await pool.close()
    assert min(shares) == pytest.approx(0.8, abs=0.01)
    assert max(shares) == pytest.approx(1.2, abs=0.01)


async def test_resetting_the_backoff_ends_the_pause_and_the_next_is_short_again() -> None:
    dials, clock = Dials(), FakeClock()
    pool = dialling(dials, clock)
    for _ in range(10):
        await clock.run(18.1)
    count = dials.count
    clock.slept.clear()
    pool.reset_backoff()
    await settle()
    assert dials.count == count + 1
    assert clock.slept[0] <= 1.2
    await pool.close()


async def test_a_hurried_pause_is_half_a_second_however_long_it_was() -> None:
    for seed in range(10):
        dials, clock = Dials(), FakeClock()
        pool = dialling(dials, clock, seed)
        for _ in range(10):
            await clock.run(18.1)
        while True:  # up to the next dial
            count = dials.count
            await clock.run(0.1)
            if dials.count > count:
                break
        await clock.run(0.05)
        pool.hurry()
        pool.hurry()
        await clock.run(0.6)
        assert dials.count == count + 2
        await clock.run(3.0)  # hurried once
        assert dials.count == count + 2
        pool.hurry()
        await settle()
        assert dials.count == count + 3
        await pool.close()


async def test_a_server_is_dialled_twice_a_second_while_calls_wait() -> None:
    dials, clock = Dials(), FakeClock()
    pool = dialling(dials, clock)
    dials.on_failure = pool.hurry
    await clock.run(100.0)
    assert 170 <= dials.count <= 250
    await pool.close()


async def test_a_server_that_is_not_wanted_any_more_is_dialled_no_more() -> None:
    dials, clock = Dials(), FakeClock()
    pool = dialling(dials, clock)
    await settle()
    pool.set_wanted(False)
    await clock.run(100.0)
    assert dials.count == 1
    assert not pool.dialling


# A dial that hangs: the host is away, or the packets of the dial were lost.


async def test_a_dial_that_hangs_is_accompanied_by_others_while_a_call_waits() -> None:
    async with numbered(1) as server, FaultProxy(server.addresses[0].port) as proxy:
        proxy.judge = lambda _: Fate.SWALLOW
        client = Client(f"127.0.0.1:{proxy.port}", connect_timeout=60)
        call = asyncio.create_task(client.raw_call("which", timeout=60))
        await eventually(lambda: proxy.lost)
        proxy.judge = lambda _: Fate.PASS
        assert await within(call) == 1
        (node,) = client.cluster.nodes.values()
        assert len(node.pool.connections) == 1
        assert not node.pool.dialling
        await client.close()


async def test_a_dial_beside_one_that_hangs_may_fail_and_is_tried_again() -> None:
    async with numbered(1) as server, FaultProxy(server.addresses[0].port) as proxy:
        proxy.judge = lambda _: Fate.SWALLOW
        client = Client(f"127.0.0.1:{proxy.port}", connect_timeout=60)
        call = asyncio.create_task(client.raw_call("which", timeout=60, wait_for_ready=True))
        await eventually(lambda: proxy.lost == 1)
        proxy.judge = lambda _: Fate.CUT
        (node,) = client.cluster.nodes.values()
        await eventually(lambda: node.pool.failed)
        assert "before its Hello" in client.cluster.describe()
        assert "being dialled for" in client.cluster.describe()
        proxy.judge = lambda _: Fate.PASS
        assert await within(call) == 1
        await client.close()


async def test_a_client_may_be_closed_while_two_dials_hang() -> None:
    async with numbered(1) as server, FaultProxy(server.addresses[0].port) as proxy:
        proxy.judge = lambda _: Fate.SWALLOW
        client = Client(f"127.0.0.1:{proxy.port}", connect_timeout=60)
        call = asyncio.create_task(client.raw_call("which", timeout=60))
        await eventually(lambda: proxy.lost == 2)
        await client.close()
        with pytest.raises(Unavailable):
            await within(call)


async def test_a_dial_that_hangs_is_left_alone_while_no_call_waits() -> None:
    count = 0

    async def hang() -> Connection:
        nonlocal count
        count += 1
        await asyncio.Event().wait()
        raise AssertionError

    clock = FakeClock()
    pool = Pool(
        "server",
        hang,
        lambda conn: False,
        max_connections=1,
        clock=clock,
        rng=random.Random(1),
        on_change=lambda: None,
    )
    pool.set_wanted(True)
    await clock.run(60.0)
    assert count == 1
    pool.hurry()
    await settle()
    assert count == 2
    await pool.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "rap.client" and record.levelno > logging.DEBUG
    ]


async def test_dials_that_fail_in_a_row_are_one_warning_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dials, clock = Dials(), FakeClock()
    pool = dialling(dials, clock)
    await settle()
    await clock.run(50.0)
    assert dials.count > 4
    assert lines(caplog) == [("WARNING", "nobody there; it is dialled again and again")]
    await clock.run(30.0)
    again = lines(caplog)[1:]
    assert [level for level, _ in again] == ["WARNING"]
    assert again[0][1].startswith("nobody there; for ")
    await pool.close()


async def test_a_server_that_is_killed_is_one_warning_and_one_line_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rap.client")
    async with Fleet(Server(), 1) as fleet:
        caplog.clear()
        fleet["a"].kill()
        await eventually(lambda: fleet.client.cluster.counters.failed > 1)
        ((level, text),) = lines(caplog)
        assert level == "WARNING"
        assert text.startswith("cannot reach inproc://")
        assert "; it was connected before, so it has probably stopped; it is dialled" in text
        assert "does" not in text
        await fleet["a"].restart()
        await eventually(lambda: fleet.client.cluster.counters.opened > 1)
        _, (level, text) = lines(caplog)
        assert level == "INFO"
        assert " can be reached again, after " in text


async def test_a_server_that_drains_and_stops_causes_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rap.client")
    async with Server("127.0.0.1:0") as server, Client(server.addresses) as client:
        await server.await_closed()
        await eventually(lambda: client.cluster.counters.failed > 1)
    ((level, text),) = lines(caplog)
    assert level == "INFO"
    assert " leaves, as it announced: cannot reach " in text
