"""What happens to shared state when answers are lost, Redis is away, or an instance is killed."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from rap.clock import SystemClock
from rap.redis.client import RedisClient, Script
from rap.shared_state import Bucket, SharedState, StateUnavailable, state_from_url
from rap.shared_state.redis import RedisBuckets, RedisNonces
from rap.shared_state.redis_connections import RedisConnections
from tests.fault_proxy import Fate, FaultProxy
from tests.loopback import eventually, until, within
from tests.redis_server import RedisSentinel, RedisServer
from tests.shared_state.test_suite import gives

ROOT = Path(__file__).parents[2]
PATIENT = 10.0  # seconds for a command where no server is frozen; a busy machine may need them
SHORT = 0.3  # the same where a server is frozen, and the test waits until that is noticed


@asynccontextmanager
async def counting(
    url: str, namespace: str, number: int = 1, ttl: float = 1.0, *, timeout: float = PATIENT
) -> AsyncIterator[list[RedisConnections]]:
    """Counters of so many instances."""
    made = [
        RedisConnections(RedisClient(url, timeout=timeout), f"{namespace}/conn", ttl=ttl)
        for _ in range(number)
    ]
    yield made
    for counter in made:
        await counter.aclose()


def every_other(fate: Fate) -> Callable[[bytes], Fate]:
    """Lose every other answer of a script; what greets a new connection passes.

    Redis before 7.2 does not know ``CLIENT SETINFO``, so an error may be part of the greeting.
    """
    count = 0

    def judge(data: bytes) -> Fate:
        nonlocal count
        if data.startswith((b"+", b"-")):
            return Fate.PASS
        count += 1
        return fate if count % 2 else Fate.PASS

    return judge


@asynccontextmanager
async def losing(server: RedisServer, fate: Fate = Fate.CUT) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.port) as proxy:
        proxy.judge = every_other(fate)
        yield proxy


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server that a test may harm."""
    try:
        server = RedisServer(tmp_path / "redis")
    except FileNotFoundError as exc:
        pytest.skip(str(exc))
    with server:
        yield server


# Lost answers.


async def test_a_thousand_lost_answers_are_no_replays(
    redis_single: RedisServer, namespace: str
) -> None:
    async with losing(redis_single) as proxy:
        state = state_from_url(f"{proxy.url}?namespace={namespace}")
        direct = state_from_url(f"{redis_single.url}?namespace={namespace}")
        async with aclosing(state.nonces()) as nonces, aclosing(direct.nonces()) as others:
            count = 0
            while proxy.lost < 1000:
                assert await nonces.claim(str(count), ttl=60)
                count += 1
            assert count >= 500
            assert not any([await others.claim(str(n), ttl=60) for n in range(count)])


async def test_an_answer_that_never_comes_is_no_replay(
    redis_single: RedisServer, namespace: str
) -> None:
    async with losing(redis_single, Fate.SWALLOW) as proxy:
        async with aclosing(
            RedisNonces(RedisClient(proxy.url, timeout=SHORT), namespace)
        ) as nonces:
            for number in range(5):
                assert await nonces.claim(str(number), ttl=60)
        assert proxy.lost >= 5


async def test_lost_answers_count_no_connection_twice(
    redis_single: RedisServer, namespace: str
) -> None:
    async with losing(redis_single) as proxy:
        async with (
            counting(proxy.url, namespace) as (one,),
            counting(redis_single.url, namespace) as (other,),
        ):
            for _ in range(50):
                assert await one.acquire("a", 50)
            assert not await other.acquire("a", 50)
            for _ in range(20):
                one.release("a")
            await until(lambda: holds(other, 30))
        assert proxy.lost >= 25


async def holds(counter: RedisConnections, number: int) -> bool:
    return await counter.total("a") == number


async def test_lost_answers_take_no_token_twice(redis_single: RedisServer, namespace: str) -> None:
    bucket = Bucket(capacity=50, rate=0.001, initial=50)
    async with losing(redis_single) as proxy:
        buckets = RedisBuckets(
            RedisClient(proxy.url, timeout=PATIENT),
            namespace,
            RedisConnections(RedisClient(proxy.url, timeout=PATIENT), f"{namespace}/buckets"),
            clock=SystemClock(),
        )
        async with aclosing(buckets):
            taken = [await buckets.take("k", bucket) for _ in range(50)]
            assert taken == [0] * 50
            assert await buckets.take("k", bucket) > 0


async def test_a_message_that_comes_late_changes_nothing(
    redis_single: RedisServer, namespace: str
) -> None:
    script = Script.load("rap.shared_state", "connections")
    keys = [f"rap:lim:{{{namespace}}}:n", f"rap:lim:{{{namespace}}}:x"]
    redis = RedisClient(redis_single.url)
    me = "0" * 16
    assert await redis.run(script, keys, [me, 9000, 2, 1, "a", 5, 0, 0]) == [1, 0]
    assert await redis.run(script, keys, [me, 9000, 1, 1, "a", 7, 0, 0]) == [-2]
    assert redis_single.command("HGET", keys[0], f"{me}a") == "5"
    assert await redis.run(script, keys, [me, 9000, 2, 0, "a", 5, 1, 10]) == [1, 1]  # once more
    assert await redis.run(script, keys, ["1" * 16, 9000, 1, 0, "a", 1, 0, 0]) == [-1]
    await redis.aclose()


# Redis is away.


async def test_nonces_fail_closed_while_redis_is_down(
    own_redis: RedisServer, namespace: str
) -> None:
    redis = RedisClient(own_redis.url, timeout=SHORT)
    async with aclosing(RedisNonces(redis, namespace)) as nonces:
        await until(lambda: answers(nonces))
        assert await nonces.claim("a", ttl=60)
        own_redis.freeze()
        with pytest.raises(StateUnavailable, match="the nonces cannot be asked: Redis at"):
            await within(nonces.claim("b", ttl=60))
        own_redis.thaw()
        await until(lambda: answers(nonces))
        assert not await nonces.claim("a", ttl=60)
        own_redis.kill()
        with pytest.raises(StateUnavailable):
            await within(nonces.claim("c", ttl=60))


async def answers(nonces: RedisNonces) -> bool:
    try:
        await nonces.claim("x", ttl=60)
    except StateUnavailable:
        return False
    return True


@pytest.mark.parametrize("fault", [RedisServer.freeze, RedisServer.kill])
async def test_a_process_falls_back_to_its_share_of_a_limit(
    own_redis: RedisServer,
    namespace: str,
    fault: Callable[[RedisServer], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with counting(own_redis.url, namespace, 3, timeout=SHORT) as counters:
        for counter in counters:
            assert await counter.acquire("a", 10)
        assert await counters[0].acquire("b", 10)  # by now it knows of all three
        await eventually(lambda: counters[0].instances == 3 and not counters[0].away)
        fault(own_redis)
        admitted = [await within(counters[0].acquire("a", 10)) for _ in range(5)]
        assert admitted == [True, True, False, False, False]  # a third of 10
        assert await counters[0].acquire("c", 1)  # a share is at least one
        assert not await counters[0].acquire("d", 0)
        with pytest.raises(StateUnavailable):
            await counters[0].total("a")
        counters[0].release("a")
        assert counters[0].held("a") == 2
    assert caplog.text.count("counts this instance alone, for 1/3 of it") >= 1


@pytest.mark.parametrize(("query", "share"), [("", 5), ("&instances=4", 10), ("&instances=99", 1)])
async def test_an_instance_that_starts_while_redis_is_away_admits_its_share(
    own_redis: RedisServer, namespace: str, query: str, share: int
) -> None:
    state = state_from_url(f"{own_redis.url}?namespace={namespace}{query}")
    bucket = Bucket(capacity=40, rate=0.001, initial=40)
    own_redis.kill()
    async with aclosing(state.connections("conn")) as counter, aclosing(state.buckets("b")) as it:
        admitted = [await within(counter.acquire("a", 40)) for _ in range(40)]
        taken = [await within(it.take("k", bucket)) == 0 for _ in range(40)]
    assert (sum(admitted), sum(taken)) == (share, share)


async def test_an_instance_learns_the_number_when_redis_is_there(
    own_redis: RedisServer, namespace: str
) -> None:
    async with counting(own_redis.url, namespace) as (one,):
        assert all([await one.acquire("a", 40) for _ in range(40)])
        assert one.instances == 1


async def test_a_redis_that_forgets_all_and_leaves_does_not_raise_the_share(
    own_redis: RedisServer, namespace: str
) -> None:
    async with counting(own_redis.url, namespace, 4, ttl=60) as counters:
        for counter in counters:
            assert await counter.acquire("a", 40)
        assert await counters[0].acquire("b", 40)
        await eventually(lambda: counters[0].instances == 4)
        own_redis.command("FLUSHALL")
        assert await counters[0].acquire("b", 40)
        own_redis.kill()
        admitted = [await within(counters[0].acquire("c", 40)) for _ in range(20)]
        assert sum(admitted) == 10


async def test_after_an_outage_the_counts_are_right_again(
    own_redis: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with counting(own_redis.url, namespace, 2, ttl=0.6) as (one, other):
        for counter in (one, other, one):
            assert await counter.acquire("a", 10)
        own_redis.kill()
        await eventually(lambda: caplog.text.count("counts this instance alone, for 1/2") == 2)
        assert one.away
        assert [await one.acquire("a", 10) for _ in range(4)] == [True, True, True, False]
        own_redis.start()  # empty
        await eventually(lambda: caplog.text.count("counts all instances again") == 2)
        assert not one.away
        await until(lambda: totals(one, 6))
        await until(lambda: totals(other, 6))
        assert [await other.acquire("a", 10) for _ in range(5)] == [True] * 4 + [False]


async def totals(counter: RedisConnections, number: int) -> bool:
    try:
        return await counter.total("a") == number
    except StateUnavailable:
        return False


async def test_counts_survive_a_redis_that_forgets_all(
    own_redis: RedisServer, namespace: str
) -> None:
    async with counting(own_redis.url, namespace, 2, ttl=0.3) as (one, other):
        for _ in range(3):
            assert await one.acquire("a", 4)
        own_redis.command("FLUSHALL")
        await until(lambda: totals(other, 3))
        assert await other.acquire("a", 4)
        assert not await other.acquire("a", 4)


async def test_who_asks_a_redis_that_forgot_all_is_admitted_by_what_was_held(
    own_redis: RedisServer, namespace: str
) -> None:
    async with counting(own_redis.url, namespace, 2, ttl=60) as (one, other):
        assert all([await one.acquire("a", 4) for _ in range(3)])
        assert await one.acquire("b", 4)
        own_redis.command("FLUSHALL")
        asked = await asyncio.gather(*(one.acquire("a", 4) for _ in range(3)))
        assert sum(asked) == 1
        await until(lambda: totals(other, 4))
        assert await other.total("b") == 1


async def test_who_waits_for_an_answer_when_the_counter_closes_is_refused(
    own_redis: RedisServer, namespace: str
) -> None:
    async with counting(own_redis.url, namespace, timeout=SHORT) as (one,):
        assert await one.acquire("a", 9)
        own_redis.freeze()
        waiting = asyncio.ensure_future(one.acquire("a", 9))
        await asyncio.sleep(0)
        await within(one.aclose())
        assert await waiting is False
        with pytest.raises(RuntimeError, match="is closed"):
            await one.acquire("a", 9)


async def test_each_instance_has_its_share_of_a_bucket_while_redis_is_down(
    own_redis: RedisServer, namespace: str
) -> None:
    bucket = Bucket(capacity=10, rate=0.001, initial=10)
    async with counting(own_redis.url, namespace, 2, ttl=0.3) as members:
        one, other = (
            RedisBuckets(RedisClient(own_redis.url), namespace, it, clock=SystemClock())
            for it in members
        )
        async with aclosing(one), aclosing(other):
            assert [await other.take("k", bucket), await one.take("k", bucket)] == [0, 0]
            await eventually(lambda: members[0].instances == 2)
            own_redis.kill()
            taken = [await within(one.take("k", bucket)) for _ in range(6)]
            assert taken[:5] == [0] * 5
            assert taken[5] > 0
            assert one.away
            own_redis.start()
            await until(lambda: gives(one, bucket))  # the bucket is a new one there
            assert not one.away


# Instances die, and primaries.


CHILD = """
import asyncio, sys
from rap.redis.client import RedisClient
from rap.shared_state.redis_connections import RedisConnections

async def main():
    url, scope = sys.argv[1:]
    counter = RedisConnections(RedisClient(url), scope, ttl=1.0)
    for _ in range(4):
        assert await counter.acquire("a", 10)
    print("holding", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_a_killed_process_held_is_free_after_its_lease(
    redis_single: RedisServer, namespace: str
) -> None:
    async with counting(redis_single.url, namespace, 2) as (one, other):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD, redis_single.url, f"{namespace}/conn"),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            assert child.stdout is not None
            assert await within(child.stdout.readline()) == b"holding\n"
            for counter in (one, other):
                assert all([await counter.acquire("a", 10) for _ in range(3)])
            assert not await one.acquire("a", 10)
            child.send_signal(signal.SIGKILL)
            await until(lambda: holds(one, 6))
            admitted = [await other.acquire("a", 10) for _ in range(5)]
            assert admitted == [True] * 4 + [False]
        finally:
            if child.returncode is None:
                child.send_signal(signal.SIGKILL)
            await child.wait()


async def test_a_nonce_that_many_instances_are_offered_is_accepted_once(
    redis_single: RedisServer, namespace: str
) -> None:
    url = f"{redis_single.url}?namespace={namespace}"
    stores = [state_from_url(url).nonces() for _ in range(3)]
    accepted = 0
    for start in range(0, 1000, 100):
        names = [str(n) for n in range(start, start + 100)]
        claims = [store.claim(name, ttl=60) for name in names for store in stores]
        accepted += sum(await asyncio.gather(*claims))
    assert accepted == 1000
    for store in stores:
        await store.aclose()


async def test_nonces_outlive_a_failover(
    tmp_path_factory: pytest.TempPathFactory, redis_single: RedisServer, namespace: str
) -> None:
    with RedisSentinel(tmp_path_factory.mktemp("sentinel")) as group:
        redis = RedisClient(group.url, timeout=0.5)
        async with aclosing(RedisNonces(redis, namespace)) as nonces:
            assert await nonces.claim("a", ttl=60)
            key = f"rap:nonce:{namespace}:a"
            await eventually(lambda: all(it.command("EXISTS", key) for it in group.nodes))
            group.primary.kill()
            await until(lambda: answers(nonces))
            assert not await nonces.claim("a", ttl=60)


def test_the_state_of_redis_has_the_form_of_all() -> None:
    state: SharedState = state_from_url("redis://localhost")
    assert state.nonces() is not state.nonces()  # each has a connection of its own
