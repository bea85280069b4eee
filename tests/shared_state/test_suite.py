"""What every store of shared state must do, in memory and on real Redis servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from rap.shared_state import Bucket, ConnectionCounter, TokenBuckets, state_from_url
from tests.loopback import until, within
from tests.redis_fixtures import limited
from tests.redis_server import RedisServer
from tests.shared_state.conftest import Connect

STORES = ["memory", "single", "deployed", "old", "cluster"]
REDIS = STORES[1:]
over = pytest.mark.parametrize("connect", STORES, indirect=True)
over_redis = pytest.mark.parametrize("connect", REDIS, indirect=True)


@asynccontextmanager
async def counters(connect: Connect, number: int) -> AsyncIterator[list[ConnectionCounter]]:
    async with AsyncExitStack() as stack:
        made = [connect().connections("conn") for _ in range(number)]
        yield [await stack.enter_async_context(aclosing(counter)) for counter in made]


async def gives(store: TokenBuckets, bucket: Bucket) -> bool:
    return await store.take("k", bucket) == 0


@over
async def test_a_nonce_is_new_once(connect: Connect) -> None:
    async with aclosing(connect().nonces()) as one, aclosing(connect().nonces()) as other:
        assert await one.claim("n", ttl=30)
        assert not await one.claim("n", ttl=30)
        assert not await other.claim("n", ttl=30)
        assert await other.claim(b"n", ttl=30)


@over
async def test_of_many_claims_of_one_nonce_one_succeeds(connect: Connect) -> None:
    async with aclosing(connect().nonces()) as one, aclosing(connect().nonces()) as other:
        claims = [store.claim("n", ttl=30) for store in (one, other) for _ in range(20)]
        assert sum(await asyncio.gather(*claims)) == 1


@over_redis
async def test_a_nonce_is_forgotten_after_its_time(connect: Connect) -> None:
    async with aclosing(connect().nonces()) as store:
        assert await store.claim("n", ttl=0.02)

        await until(lambda: store.claim("n", ttl=30))


@over_redis
@pytest.mark.parametrize("nonce", ["", "x" * 257])
async def test_a_nonce_of_a_bad_length_is_refused(connect: Connect, nonce: str) -> None:
    async with aclosing(connect().nonces()) as store:
        with pytest.raises(ValueError, match=f"1 to 256 characters, got {len(nonce)}"):
            await store.claim(nonce, ttl=30)


@over
async def test_no_more_connections_are_open_than_the_limit(connect: Connect) -> None:
    async with counters(connect, 3) as instances:
        asked = [counter.acquire("a", 10) for counter in instances for _ in range(6)]
        assert sum(await asyncio.gather(*asked)) == 10
        assert await instances[0].total("a") == 10


@over
async def test_keys_are_counted_apart(connect: Connect) -> None:
    async with counters(connect, 1) as (counter,):
        assert await counter.acquire("a", 1)
        assert await counter.acquire("b", 1)
        assert not await counter.acquire("a", 1)
        assert (counter.held("a"), counter.held("b"), counter.held("c")) == (1, 1, 0)


@over
async def test_what_is_released_is_free_for_others(connect: Connect) -> None:
    async with counters(connect, 2) as (one, other):
        assert await one.acquire("a", 1)
        assert not await other.acquire("a", 1)
        one.release("a")

        await until(lambda: other.acquire("a", 1))
        assert await one.total("a") == 1


@over
async def test_a_counter_that_is_closed_gives_all_back(connect: Connect) -> None:
    async with counters(connect, 2) as (one, other):
        assert await one.acquire("a", 1)
        await one.aclose()
        assert await other.acquire("a", 1)
        assert await other.total("a") == 1


@over
async def test_who_gives_up_waiting_holds_nothing(connect: Connect) -> None:
    async with counters(connect, 2) as (one, other):
        tasks = [asyncio.ensure_future(one.acquire("a", 5)) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kept = sum(outcome is True for outcome in outcomes)
        assert one.held("a") == kept
        asked = [other.acquire("a", 5) for _ in range(10)]
        first = sum(await asyncio.gather(*asked))

        async def is_full() -> None:
            count = first
            while count + kept < 5:
                count += await other.acquire("a", 5)

        await within(is_full())
        assert await other.total("a") == 5


@over
async def test_many_keys_are_counted_at_once(connect: Connect) -> None:
    async with counters(connect, 2) as (one, other):
        keys = [f"10.0.{n // 256}.{n % 256}" for n in range(1200)]
        assert all(await asyncio.gather(*(one.acquire(key, 1) for key in keys)))
        assert not any(await asyncio.gather(*(other.acquire(key, 1) for key in keys)))
        for key in keys:
            one.release(key)

        await until(lambda: other.acquire(keys[-1], 1))


@over
async def test_a_bucket_gives_its_tokens_and_then_says_when_to_come_back(connect: Connect) -> None:
    bucket = Bucket(capacity=3, rate=0.01, initial=3)
    async with aclosing(connect().buckets("b")) as one, aclosing(connect().buckets("b")) as other:
        taken = [await store.take("k", bucket) for store in (one, other, one)]
        assert taken == [0, 0, 0]
        assert 99 < await other.take("k", bucket) <= 100
        assert await other.take("another", bucket) == 0


@over
async def test_a_bucket_fills_with_time(connect: Connect) -> None:
    bucket = Bucket(capacity=1, rate=2, initial=1)
    async with aclosing(connect().buckets("b")) as store:
        assert await store.take("k", bucket) == 0
        assert 0 < await store.take("k", bucket) <= 0.5

        await until(lambda: gives(store, bucket))


@over
async def test_an_empty_bucket_blocks_for_its_time(connect: Connect) -> None:
    bucket = Bucket(capacity=1, rate=1000, initial=0, block_time=60)
    async with aclosing(connect().buckets("b")) as store:
        assert await store.take("k", bucket) == 60
        assert 50 < await store.take("k", bucket) <= 60


@over
async def test_a_new_bucket_may_hold_less_than_it_can(connect: Connect) -> None:
    bucket = Bucket(capacity=10, rate=0.01, initial=1)
    async with aclosing(connect().buckets("b")) as store:
        assert await store.take("k", bucket) == 0
        assert await store.take("k", bucket) > 0


@over_redis
async def test_a_long_key_of_a_bucket_is_hashed(connect: Connect) -> None:
    bucket = Bucket(capacity=1, rate=0.01, initial=1)
    async with aclosing(connect().buckets("b")) as store:
        assert await store.take("x" * 100_000, bucket) == 0
        assert await store.take("x" * 100_000, bucket) > 0
        assert await store.take("x" * 99_999, bucket) == 0


async def test_a_user_of_redis_who_may_do_no_more_than_the_page_says_is_enough(
    redis_single: RedisServer, namespace: str
) -> None:
    redis_single.command("SCRIPT", "FLUSH")
    with limited(redis_single) as url:
        state = state_from_url(f"{url}?namespace={namespace}")
        async with (
            aclosing(state.nonces()) as nonces,
            aclosing(state.buckets("b")) as buckets,
            aclosing(state.connections("conn")) as counter,
        ):
            assert await nonces.claim("n", ttl=30)
            assert not await nonces.claim("n", ttl=30)
            assert await buckets.take("k", Bucket(capacity=1, rate=1, initial=1)) == 0
            assert await buckets.take("k", Bucket(capacity=1, rate=1, initial=1)) > 0
            assert await counter.acquire("a", 1)
            assert not await counter.acquire("a", 1)
            assert await counter.total("a") == 1
            counter.release("a")
