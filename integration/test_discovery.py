"""Instances that come, leave, die and are replaced; a Redis that goes and comes back empty."""

import asyncio
from pathlib import Path

from integration.stage import PATIENCE, Stage
from integration.watching import calling, seen
from rap.client import Client
from tests.loopback import eventually


async def start(stage: Stage, files: Path, *names: str, **environ: str) -> None:
    """Start instances of ``calc`` side by side."""
    starts = [asyncio.to_thread(stage.calc, name, files, **environ) for name in names]
    await asyncio.gather(*starts)


async def test_clients_find_instances_that_come_and_leave(
    stage: Stage, client: Client, tmp_path: Path
) -> None:
    first = await asyncio.to_thread(stage.calc, "a", tmp_path)
    async with client:
        await seen(client, {"a"})
        await start(stage, tmp_path, "b", "c")
        await seen(client, {"a", "b", "c"})
        first.terminate()
        await seen(client, {"b", "c"})
    assert await asyncio.to_thread(first.wait) == 0
    assert "rap: stopped" in first.output()


async def test_no_idempotent_call_fails_when_an_instance_is_killed(
    stage: Stage, client: Client, tmp_path: Path
) -> None:
    doomed = await asyncio.to_thread(stage.calc, "doomed", tmp_path)
    await start(stage, tmp_path, "other")
    async with client, calling(client) as traffic:
        await traffic.answered_by("doomed")
        await traffic.answered_by("other")
        doomed.kill()
        await traffic.go_on(200)
        await seen(client, {"other"})
    assert traffic.failures == []


async def test_no_idempotent_call_fails_in_a_rolling_update(
    stage: Stage, client: Client, tmp_path: Path
) -> None:
    old = [await asyncio.to_thread(stage.calc, f"old-{number}", tmp_path) for number in range(3)]
    async with client, calling(client) as traffic:
        for number, instance in enumerate(old):
            await traffic.answered_by(instance.name)
            await start(stage, tmp_path, f"new-{number}")
            await traffic.answered_by(f"new-{number}")
            instance.terminate()
            assert await asyncio.to_thread(instance.wait) == 0
        await seen(client, {"new-0", "new-1", "new-2"})
    assert traffic.failures == []


async def test_no_call_fails_while_redis_is_away_and_instances_are_found_when_it_is_back(
    stage: Stage, client: Client, tmp_path: Path
) -> None:
    await start(stage, tmp_path, "a", "b")
    async with client, calling(client) as traffic:
        await seen(client, {"a", "b"})
        await asyncio.to_thread(stage.stop_redis)
        await traffic.go_on(200)
        await asyncio.to_thread(stage.start_redis)
        await start(stage, tmp_path, "c")
        await seen(client, {"a", "b", "c"})
    assert traffic.failures == []


async def test_a_client_that_starts_after_redis_lost_everything_finds_all(
    stage: Stage, client: Client, tmp_path: Path
) -> None:
    await start(stage, tmp_path, "a", "b")
    await asyncio.to_thread(stage.stop_redis)
    await asyncio.to_thread(stage.start_redis)
    async with client:
        await seen(client, {"a", "b"})


async def test_the_program_under_load_counts_no_failure(stage: Stage, tmp_path: Path) -> None:
    await start(stage, tmp_path, "a", "b")
    load = stage.run("load", ("-m", "integration.app.load", "--interval", "0.2"), tmp_path)
    await asyncio.to_thread(load.wait_for, "calls/s")
    await eventually(lambda: "a " in load.output() and "b " in load.output(), PATIENCE)
    load.terminate()
    assert await asyncio.to_thread(load.wait) == 0, load.output()
    assert "failed: 0" in load.output()
