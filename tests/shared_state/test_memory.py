"""State in memory: time is a clock that stands still, and what is kept has an end."""

import pytest

from rap.shared_state import (
    Bucket,
    MemoryBuckets,
    MemoryConnections,
    MemoryNonces,
    StateUnavailable,
)
from tests.fake_clock import FakeClock


async def test_a_nonce_is_new_again_after_its_time(clock: FakeClock) -> None:
    nonces = MemoryNonces(clock=clock)
    assert await nonces.claim("n", ttl=10)
    clock.advance(9.99)
    assert not await nonces.claim("n", ttl=10)
    clock.advance(0.01)
    assert await nonces.claim("n", ttl=10)
    assert not await nonces.claim("n", ttl=10)


async def test_being_asked_again_does_not_keep_a_nonce_longer(clock: FakeClock) -> None:
    nonces = MemoryNonces(clock=clock)
    assert await nonces.claim("n", ttl=10)
    clock.advance(9)
    assert not await nonces.claim("n", ttl=10)
    clock.advance(1)
    assert await nonces.claim("n", ttl=10)


async def test_expired_nonces_take_no_memory(clock: FakeClock) -> None:
    nonces = MemoryNonces(clock=clock)
    for number in range(1000):
        assert await nonces.claim(str(number), ttl=10)
        clock.advance(1)
    assert len(nonces) <= 11


async def test_full_nonces_refuse_rather_than_forget(clock: FakeClock) -> None:
    nonces = MemoryNonces(max_nonces=2, clock=clock)
    assert await nonces.claim("a", ttl=10)
    assert await nonces.claim("b", ttl=10)
    with pytest.raises(StateUnavailable, match="2 nonces"):
        await nonces.claim("c", ttl=10)
    assert not await nonces.claim("a", ttl=10)
    clock.advance(10)
    assert await nonces.claim("c", ttl=10)


async def test_nonces_are_remembered_after_a_close() -> None:
    nonces = MemoryNonces()
    assert await nonces.claim("n", ttl=10)
    await nonces.aclose()
    assert not await nonces.claim("n", ttl=10)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), True, "1"])
async def test_a_bad_ttl_is_refused(ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl must be a number of more than 0, got"):
        await MemoryNonces().claim("n", ttl=ttl)


async def test_more_is_never_released_than_was_acquired() -> None:
    counter = MemoryConnections()
    assert await counter.acquire("a", 2)
    assert await counter.acquire("a", 2)
    counter.release("a")
    counter.release("a")
    with pytest.raises(AssertionError, match="more released than acquired under 'a'"):
        counter.release("a")
    assert counter.held("a") == 0


async def test_a_limit_may_be_lowered_below_what_is_open() -> None:
    counter = MemoryConnections()
    assert await counter.acquire("a", 2)
    assert await counter.acquire("a", 2)
    assert not await counter.acquire("a", 1)
    counter.release("a")
    assert not await counter.acquire("a", 1)
    counter.release("a")
    assert await counter.acquire("a", 1)


async def test_a_bucket_refills_at_its_rate(clock: FakeClock) -> None:
    buckets, bucket = MemoryBuckets(clock=clock), Bucket(capacity=2, rate=0.5, initial=2)
    assert [await buckets.take("k", bucket) for _ in range(3)] == [0, 0, 2]
    clock.advance(1)
    assert await buckets.take("k", bucket) == 1
    clock.advance(1)
    assert await buckets.take("k", bucket) == 0
    clock.advance(1000)
    assert [await buckets.take("k", bucket) for _ in range(3)] == [0, 0, 2]


async def test_a_block_is_not_extended_by_who_asks_in_it(clock: FakeClock) -> None:
    buckets = MemoryBuckets(clock=clock)
    bucket = Bucket(capacity=1, rate=10, initial=1, block_time=60)
    assert [await buckets.take("k", bucket) for _ in range(2)] == [0, 60]
    clock.advance(59)
    assert await buckets.take("k", bucket) == 1
    clock.advance(1)
    assert await buckets.take("k", bucket) == 0


async def test_full_buckets_take_no_memory(clock: FakeClock) -> None:
    buckets, bucket = MemoryBuckets(clock=clock), Bucket(capacity=1, rate=1, initial=1)
    for number in range(1000):
        assert await buckets.take(str(number), bucket) == 0
        clock.advance(0.5)
    assert len(buckets) <= 3


async def test_a_new_bucket_that_is_empty_is_not_forgotten_when_full(clock: FakeClock) -> None:
    buckets, bucket = MemoryBuckets(clock=clock), Bucket(capacity=1, rate=1, initial=0)
    assert await buckets.take("k", bucket) == 1
    clock.advance(1000)
    await buckets.take("other", bucket)
    assert await buckets.take("k", bucket) == 0


async def test_there_are_no_more_buckets_than_may_be(clock: FakeClock) -> None:
    buckets = MemoryBuckets(max_buckets=3, clock=clock)
    bucket = Bucket(capacity=1, rate=0.001, initial=1)
    for key in "abcabd":
        await buckets.take(key, bucket)
    assert len(buckets) == 3
    assert await buckets.take("a", bucket) > 0  # used later than c, which had to go
    assert await buckets.take("c", bucket) == 0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"capacity": 0.5}, "capacity must be a number of at least 1, got 0.5"),
        ({"rate": 0}, "rate must be a number of more than 0, got 0"),
        ({"initial": -1}, "initial must be a number of at least 0, got -1"),
        ({"initial": 9}, "initial must be at most the capacity of 5, got 9"),
        ({"block_time": None}, "block_time must be a number of at least 0, got None"),
    ],
)
def test_a_bad_bucket_is_refused(values: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Bucket(**{"capacity": 5, "rate": 1, "initial": 5, **values})


def test_the_share_of_a_bucket_has_room_for_one() -> None:
    share = Bucket(capacity=4, rate=10, initial=2, block_time=3).share(8)
    assert share == Bucket(capacity=1, rate=1.25, initial=0.25, block_time=3)
    share = Bucket(capacity=4, rate=10, initial=4).share(8)
    assert share == Bucket(capacity=1, rate=1.25, initial=1)
