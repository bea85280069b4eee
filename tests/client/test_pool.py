"""The pauses between dials of one server."""

import random
from collections.abc import Callable

import pytest

from rap.client.pool import Pool
from rap.errors import Unavailable
from rap.transport import Connection
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
