"""What all instances share through Redis: limits of requests, and nonces of encrypted calls."""

import asyncio
from pathlib import Path

import pytest

from integration.app.calc import SCARCE
from integration.app.settings import KEY_ID
from integration.stage import ORDERS, Stage
from integration.watching import answered, seen
from rap.client import Client
from rap.client.processor import CryptoProcessor
from rap.errors import ResourceExhausted, Unauthenticated, Unavailable
from rap.processor.encryption import processor as encryption

SECRET = "a key of 16 byte"


async def test_a_limit_counts_over_all_instances(
    stage: Stage, client: Client, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        await asyncio.to_thread(stage.calc, name, tmp_path, APP_STATE=stage.redis_url)
    let_through, answered = 0, set()
    async with client:
        await seen(client, {"a", "b", "c"})
        for _ in range(4 * SCARCE):
            try:
                answered.add(await client.raw_call("scarce"))
                let_through += 1
            except ResourceExhausted:
                pass
    assert let_through == SCARCE
    assert len(answered) > 1


async def test_encrypted_calls_are_refused_while_nobody_can_tell_a_replay(
    stage: Stage, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        await asyncio.to_thread(
            stage.calc, name, tmp_path, APP_SECRET=SECRET, APP_STATE=stage.redis_url
        )
    crypto = CryptoProcessor(KEY_ID, SECRET)
    async with Client(
        service="calc",
        registry=stage.redis_url,
        picker="round_robin",
        processor_list=[crypto],
        connect_timeout=30,
    ) as client:
        await seen(client, {"a", "b"})
        await asyncio.to_thread(stage.stop_redis)
        with pytest.raises(Unavailable):
            await client.raw_call("who", timeout=5)
        await asyncio.to_thread(stage.start_redis)
        await answered(client, timeout=5, meanwhile=Unavailable)


async def test_a_nonce_is_good_once_over_all_instances(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Repeating:
        """Makes calls that look like one that was captured and sent again."""

        @staticmethod
        def token_bytes(size: int) -> bytes:
            return b"n" * size

    environ = {"APP_SECRET": SECRET, "APP_STATE": stage.redis_url}
    instances = [
        await asyncio.to_thread(stage.calc, name, tmp_path, **environ) for name in ("a", "b", "c")
    ]
    monkeypatch.setattr(encryption, "secrets", Repeating)
    for instance in instances:
        crypto = CryptoProcessor(KEY_ID, SECRET)
        async with Client(stage.address_of(instance), processor_list=[crypto]) as caller:
            if instance is instances[0]:
                assert await caller.raw_call("who") == "a"
                continue
            with pytest.raises(Unauthenticated) as refusal:
                await caller.raw_call("who")
            assert refusal.value.details["reason"] == "replay"


async def test_services_with_a_key_call_each_other_encrypted(stage: Stage, tmp_path: Path) -> None:
    await asyncio.to_thread(stage.calc, "a", tmp_path, APP_SECRET=SECRET, APP_STATE=stage.redis_url)
    orders = stage.run("orders", ORDERS, tmp_path, APP_LISTEN=stage.listen, APP_SECRET=SECRET)
    await asyncio.to_thread(orders.wait_for, "rap: listening on")
    async with Client(service="orders", registry=stage.redis_url) as shop:
        assert await shop.raw_call("total", [1, 2, 3]) == 6


async def test_plain_calls_are_refused_where_calls_are_encrypted(
    stage: Stage, client: Client, tmp_path: Path
) -> None:
    await asyncio.to_thread(stage.calc, "a", tmp_path, APP_SECRET=SECRET, APP_STATE=stage.redis_url)
    async with client:
        with pytest.raises(Unauthenticated):
            await client.raw_call("who")
