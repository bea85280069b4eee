"""The example of jobs that move to another server."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from examples.jobs import client as example
from examples.jobs import server as jobs
from examples.jobs.server import Progress, count_primes, server
from rap.testing import Fleet, Replica
from tests.loopback import PATIENCE, eventually

LIMIT = 2_000
PRIMES = 303  # below 2,000


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "STEP", 10)


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold the job in its middle, until the event is set."""
    event = threading.Event()

    def count(start: int, end: int) -> int:
        assert start != LIMIT / 2 or event.wait(PATIENCE)
        return count_primes(start, end)

    monkeypatch.setattr(jobs, "count_primes", count)
    yield event
    event.set()


def test_primes_are_counted() -> None:
    assert count_primes(0, LIMIT) == PRIMES
    assert count_primes(0, 3) + count_primes(3, 10) == 4


async def test_a_job_runs_on_one_server_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    async with Fleet(server, 3, client=example.client) as fleet:
        progress = await example.run(LIMIT)
        assert (progress.done, progress.primes) == (LIMIT, PRIMES)
        assert sorted(replica.calls for replica in fleet) == [0, 0, 1]
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == LIMIT / 10
    assert "elsewhere" not in "".join(shown)


async def busy(fleet: Fleet) -> Replica:
    """Return the replica that has the job, when it has begun."""
    await eventually(lambda: any(replica.calls for replica in fleet))
    return next(replica for replica in fleet if replica.calls)


async def test_a_job_goes_on_from_its_last_progress_when_its_server_is_killed(
    go_on: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Fleet(server, 3, client=example.client) as fleet:
        job = asyncio.create_task(example.run(LIMIT))
        (await busy(fleet)).kill()
        go_on.set()
        assert (await job).primes == PRIMES
        assert sum(replica.calls for replica in fleet) == 2
    assert capsys.readouterr().out.count("going on elsewhere") == 1


async def test_a_job_leaves_a_server_that_drains_and_repeats_nothing(
    go_on: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Fleet(server, 3, client=example.client) as fleet:
        job = asyncio.create_task(example.run(LIMIT))
        stopping = asyncio.create_task((await busy(fleet)).stop())
        go_on.set()
        await stopping
        assert (await job).primes == PRIMES
        assert sum(replica.calls for replica in fleet) == 2
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == [f"{n:,}" for n in range(10, LIMIT + 1, 10)]


async def test_a_job_that_nobody_waits_for_ends() -> None:
    async with Fleet(server, 1) as fleet:
        async with fleet.client.channel(example.primes, limit=10**12, so_far=Progress()) as channel:
            await channel.read_body()
        # the block has waited for the function of the server
