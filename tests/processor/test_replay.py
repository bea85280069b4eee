"""Calls run once, near the time at which they were made, and keys change under load."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from rap.client import Channel, Client
from rap.errors import CallError, Code, Unauthenticated, Unavailable
from rap.processor.encryption.replay import ReplayGuard
from rap.server import Server
from rap.shared_state import MemoryNonces, StateUnavailable
from tests.fake_clock import FakeClock
from tests.loopback import eventually, serving, within
from tests.ports import free_port
from tests.processor.encrypted import (
    KEY,
    KEY_ID,
    ClientCrypto,
    ServerCrypto,
    encrypted,
    encrypted_client,
    remote,
)
from tests.processor.ends import Ends
from tests.redis_server import HOW_TO_GET_ONE, RedisServer, find_redis_server

NONCE = b"n" * 16


async def reason(guard: ReplayGuard, made: float, nonce: bytes = NONCE) -> str:
    """Return why a call is refused; nothing if it may run."""
    try:
        await guard.admit(nonce, made, 60)
    except CallError as error:
        return str(error.details["reason"])
    return ""


# Once.


async def test_a_nonce_is_taken_once(clock: FakeClock) -> None:
    guard = ReplayGuard(60, 120, clock=clock)
    assert await reason(guard, clock.time()) == ""
    assert await reason(guard, clock.time()) == "replay"
    assert await reason(guard, clock.time(), b"o" * 16) == ""


async def test_a_nonce_is_remembered_as_long_as_its_call_can_be_fresh(clock: FakeClock) -> None:
    guard = ReplayGuard(60, 1, clock=clock)
    ahead = clock.time() + 59
    assert await reason(guard, ahead) == ""
    for _ in range(11):
        clock.advance(10.8)
        assert await reason(guard, ahead) == "replay"
    clock.advance(2)
    assert await reason(guard, ahead) == "timestamp"


async def test_what_is_not_authentic_leaves_no_nonce_behind() -> None:
    ends = Ends()
    header, body = await ends.ask(ends.call(), 1)
    for forged in (body[:-1] + bytes([body[-1] ^ 1]), b"x" * 60):
        with pytest.raises(Unauthenticated, match="changed on its way"):
            await ends.hear(ends.arriving((header, forged)), (header, forged))
    assert await ends.hear(ends.arriving((header, body)), (header, body)) == 1
    with pytest.raises(Unauthenticated, match="made before"):
        await ends.hear(ends.arriving((header, body)), (header, body))


async def test_more_nonces_than_are_kept_are_refused_not_forgotten(clock: FakeClock) -> None:
    guard = ReplayGuard(60, 120, MemoryNonces(max_nonces=2, clock=clock), clock=clock)
    for nonce in (b"1", b"2"):
        await guard.admit(nonce, clock.time(), 60)
    with pytest.raises(Unavailable, match="cannot be known"):
        await guard.admit(b"3", clock.time(), 60)


# In time.


@pytest.mark.parametrize("off", [-59.9, -1.0, 0.0, 1.0, 59.9])
async def test_a_call_within_the_window_runs(clock: FakeClock, off: float) -> None:
    assert await reason(ReplayGuard(60, 120, clock=clock), clock.time() + off) == ""


@pytest.mark.parametrize(("off", "said"), [(-61.0, "61.0 s ago"), (61.0, "61.0 s in the future")])
async def test_a_call_outside_the_window_is_told_how_far(
    clock: FakeClock, off: float, said: str
) -> None:
    with pytest.raises(CallError, match=said) as caught:
        await ReplayGuard(60, 120, clock=clock).admit(NONCE, clock.time() + off, 600)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.details["reason"] == "timestamp"


@pytest.mark.parametrize(("server", "client"), [(60, 5), (5, 60)])
async def test_the_shorter_window_of_both_sides_counts(server: float, client: float) -> None:
    here, there = FakeClock(), FakeClock()
    ends = Ends(
        ClientCrypto(KEY_ID, KEY, timeout=client, clock=here),
        ServerCrypto({KEY_ID: KEY}, timeout=server, clock=there),
    )
    there.advance(4)
    sealed = await ends.ask(ends.call(), 1)
    assert await ends.hear(ends.arriving(sealed), sealed) == 1
    there.advance(2)
    sealed = await ends.ask(ends.call(), 1)
    with pytest.raises(CallError, match=r"6\.0 s ago, 5 s are allowed"):
        await ends.hear(ends.arriving(sealed), sealed)


@pytest.mark.parametrize("jump", [-90.0, 90.0])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_clock_that_jumps_drops_no_call_in_flight(jump: float, side: str) -> None:
    clocks = {"client": FakeClock(), "server": FakeClock()}
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def slow(n: int) -> int:
        waiting.set()
        await go_on.wait()
        return n

    async def slow_items(n: int) -> AsyncIterator[int]:
        yield n
        await go_on.wait()
        yield n + 1

    async def echo(channel: Channel) -> None:
        async for body in channel:
            await channel.write(body)

    async def talk(channel: Channel) -> Any:
        await channel.write(1)
        await go_on.wait()
        await channel.write(2)
        return [await channel.read_body(), await channel.read_body()]

    processors = [ServerCrypto({KEY_ID: KEY}, clock=clocks["server"])]
    async with serving(slow, slow_items, echo, processor_list=processors) as server:
        processor = ClientCrypto(KEY_ID, KEY, clock=clocks["client"])
        async with encrypted_client(server, processor=processor) as client:
            unary = asyncio.create_task(client.raw_call("slow", 5))
            channel = asyncio.create_task(remote(client, "echo", talk)())
            items = client.iterator_call("slow_items", 7)
            assert await anext(items) == 7
            await within(waiting.wait())
            clocks[side].advance(max(jump, 0))
            clocks["client" if side == "server" else "server"].advance(max(-jump, 0))
            go_on.set()
            assert await within(unary) == 5
            assert await within(channel) == [1, 2]
            assert [i async for i in items] == [8]
            with pytest.raises(CallError, match="timestamp") as caught:
                await client.raw_call("slow", 5)
            assert caught.value.code is Code.FAILED_PRECONDITION


# Among instances.


class Away:
    """A store that does not answer until it is back."""

    def __init__(self) -> None:
        self.back = False
        self.nonces = MemoryNonces()

    async def claim(self, nonce: str | bytes, *, ttl: float) -> bool:
        if not self.back:
            raise StateUnavailable("away")
        return await self.nonces.claim(nonce, ttl=ttl)

    async def aclose(self) -> None:
        await self.nonces.aclose()


async def test_guards_that_share_a_store_let_a_nonce_in_once(clock: FakeClock) -> None:
    store = MemoryNonces()
    guards = [ReplayGuard(60, 120, store, clock=clock) for _ in range(3)]
    for number in range(100):
        nonce = number.to_bytes(16, "big")
        said = [await reason(guard, clock.time(), nonce) for guard in guards]
        assert sorted(said) == ["", "replay", "replay"]


async def test_calls_are_refused_while_the_shared_store_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rap.server")
    store = Away()
    async with encrypted(crypto={"nonce_store": store}) as server:
        async with encrypted_client(server) as client:
            with pytest.raises(Unavailable, match="replay cannot be known: away") as caught:
                await client.raw_call("add", 1, 2)
            assert caught.value.details == {"reason": "nonce_store"}
            said = "nonce_store: away; encrypted calls are refused until it answers"
            assert caplog.text.count(said) == 1
            store.back = True
            assert await client.raw_call("add", 1, 2) == 3
            assert caplog.text.count("nonce_store answers again") == 1


async def test_a_shared_store_that_comes_and_goes_is_logged_once_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Away()
    guard = ReplayGuard(60, 120, store, clock=clock)
    for number, (wait, count) in enumerate([(0, 1), (1, 1), (60, 2)]):
        clock.advance(wait)
        store.back = False
        assert await reason(guard, clock.time(), bytes([number] * 16)) == "nonce_store"
        assert caplog.text.count("encrypted calls are refused") == count
        store.back = True
        assert await reason(guard, clock.time(), bytes([number + 9] * 16)) == ""


async def test_with_the_local_fallback_this_process_decides_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rap.server")
    store = Away()
    options = {"nonce_store": store, "nonce_fallback": "local"}
    async with encrypted(crypto=options) as server, encrypted_client(server) as client:
        assert [await client.raw_call("add", i, 1) for i in range(3)] == [1, 2, 3]
        assert caplog.text.count("this process decides alone") == 1
        store.back = True
        assert await client.raw_call("add", 1, 2) == 3
        assert caplog.text.count("answers again") == 1


async def test_the_local_fallback_still_lets_a_nonce_in_once(clock: FakeClock) -> None:
    guard = ReplayGuard(60, 120, Away(), "local", clock)
    assert [await reason(guard, clock.time()) for _ in range(2)] == ["", "replay"]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if find_redis_server() is None:
        pytest.skip(HOW_TO_GET_ONE)
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


async def test_instances_share_nonces_in_redis(redis: RedisServer, clock: FakeClock) -> None:
    url = f"{redis.url}?namespace=encrypted"
    guards = [ReplayGuard(60, 120, url, clock=clock) for _ in range(2)]
    try:
        for number in range(20):
            nonce = number.to_bytes(16, "big")
            said = [await reason(guard, clock.time(), nonce) for guard in guards]
            assert said == ["", "replay"]
    finally:
        for guard in guards:
            await guard.aclose()


async def test_a_server_with_a_url_of_redis_serves(redis: RedisServer) -> None:
    async with encrypted(crypto={"nonce_store": redis.url}) as server:
        async with encrypted_client(server) as client:
            assert [await client.raw_call("add", i, 1) for i in range(5)] == [1, 2, 3, 4, 5]


async def test_a_redis_that_is_not_there_refuses_calls() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with encrypted(crypto={"nonce_store": url}) as server:
        async with encrypted_client(server) as client:
            with pytest.raises(Unavailable, match="replay cannot be known"):
                await client.raw_call("add", 1, 2)


async def test_a_store_given_as_an_object_stays_open(clock: FakeClock) -> None:
    closed = []

    class Store(MemoryNonces):
        async def aclose(self) -> None:
            closed.append(self)

    async with encrypted(crypto={"nonce_store": Store()}):
        pass
    assert closed == []
    await ReplayGuard(60, 120, "memory://", clock=clock).aclose()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": "60"}, "timeout"),
        ({"nonce_timeout": -1}, "nonce_timeout"),
        ({"nonce_store": 7}, "nonce_store"),
        ({"nonce_store": "ftp://x"}, "ftp"),
        ({"nonce_fallback": "local"}, "nonce_fallback"),
        ({"nonce_store": "memory://", "nonce_fallback": "remote"}, "nonce_fallback"),
    ],
)
def test_a_bad_option_of_a_server_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ServerCrypto({KEY_ID: KEY}, **options)


@pytest.mark.parametrize("option", ["timeout", "interval"])
def test_a_bad_option_of_a_client_is_named(option: str) -> None:
    bad: dict[str, Any] = {option: float("nan")}
    with pytest.raises(ValueError, match=option):
        ClientCrypto(KEY_ID, KEY, **bad)


# Keys change.

GROUP = "CryptoProcessor"


async def test_keys_rotate_under_load_without_a_failed_call() -> None:
    processor = ClientCrypto("old", "o" * 16)
    stop = asyncio.Event()
    done = {"calls": 0, "items": 0}

    async def keep_calling(client: Client) -> None:
        while not stop.is_set():
            assert await client.raw_call("add", 1, 2) == 3
            done["calls"] += 1

    async def keep_iterating(client: Client) -> None:
        async for _ in client.iterator_call("items", 10**9):
            done["items"] += 1
            if stop.is_set():
                return

    async def pass_some() -> None:
        wanted = done["calls"] + 30
        await eventually(lambda: done["calls"] >= wanted)

    async with encrypted(keys={"old": "o" * 16}) as server:
        async with encrypted_client(server, processor=processor) as client:
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(keep_calling(client))
                group.create_task(keep_iterating(client))
                for number in range(3):
                    await pass_some()
                    key_id = f"new {number}"
                    ids = await client.raw_call("get_crypto_key_id_list", group=GROUP)
                    await client.raw_call("load_aes_key_dict", {key_id: "n" * 32}, group=GROUP)
                    await pass_some()
                    processor.use_key(key_id, "n" * 32)
                    await pass_some()
                    for old in ids:
                        await client.raw_call("remove_aes", old, group=GROUP)
                stop.set()
        async with encrypted_client(server, key_id="old", key="o" * 16) as late:
            with pytest.raises(Unauthenticated, match="no key has the id 'old'"):
                await late.raw_call("add", 1, 2)


async def test_a_key_is_replaced_under_its_id() -> None:
    processor = ClientCrypto("k", "o" * 16)
    async with encrypted(keys={"k": "o" * 16}) as server:
        async with encrypted_client(server, processor=processor) as client:
            await client.raw_call("load_aes_key_dict", {"k": b"n" * 24}, group=GROUP)
            with pytest.raises(Unauthenticated):
                await client.raw_call("add", 1, 2)
            processor.use_key("k", b"n" * 24)
            assert await client.raw_call("add", 1, 2) == 3


@pytest.mark.parametrize(
    ("name", "argument", "named"),
    [
        ("load_aes_key_dict", {"ok": "x" * 16, "bad": "short"}, "'bad'"),
        ("load_aes_key_dict", {"": "x" * 16}, "key_id"),
        ("remove_aes", "unknown", "'unknown'"),
        ("remove_aes", KEY_ID, "only key"),
        ("modify_crypto_timeout", 0, "timeout"),
        ("modify_crypto_nonce_timeout", -1, "nonce_timeout"),
    ],
)
async def test_a_private_function_refuses_a_bad_argument(
    name: str, argument: Any, named: str
) -> None:
    async with encrypted() as server, encrypted_client(server) as client:
        with pytest.raises(ValueError, match=named):
            await client.raw_call(name, argument, group=GROUP)
        assert await client.raw_call("get_crypto_key_id_list", group=GROUP) == [KEY_ID]


async def test_the_windows_change_at_run_time() -> None:
    here, there = FakeClock(), FakeClock()
    there.advance(30)
    processor = ClientCrypto(KEY_ID, KEY, clock=here)
    async with encrypted(crypto={"clock": there}) as server:
        async with encrypted_client(server, processor=processor) as client:
            await client.raw_call("modify_crypto_nonce_timeout", 300, group=GROUP)
            await client.raw_call("modify_crypto_timeout", 29, group=GROUP)
            with pytest.raises(CallError, match="29 s are allowed"):
                await client.raw_call("add", 1, 2)


def test_the_private_functions_are_private() -> None:
    server = Server("127.0.0.1:0", processor_list=[ServerCrypto({KEY_ID: KEY})])
    private = {each.name for each in server.handlers if each.is_private and each.group == GROUP}
    assert private == {
        "get_crypto_key_id_list",
        "load_aes_key_dict",
        "remove_aes",
        "modify_crypto_timeout",
        "modify_crypto_nonce_timeout",
    }


@pytest.mark.parametrize("make", [ClientCrypto, lambda key_id, key: ServerCrypto({key_id: key})])
@pytest.mark.parametrize("key", ["top secret", b"top secret"])
def test_an_error_never_shows_a_key(make: Callable[[str, Any], Any], key: Any) -> None:
    with pytest.raises(ValueError, match="'k'") as caught:
        make("k", key)
    assert "secret" not in str(caught.value)
