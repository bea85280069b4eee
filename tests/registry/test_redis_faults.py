"""What happens to discovery when Redis is killed, frozen, emptied, or fails over.

Every fault is a real one, done to real servers. No watch may end, raise, or show an empty set.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from rap.client import Client
from rap.client.stats import client_status
from rap.errors import RegistryError
from rap.observe.metrics_server import readiness
from rap.redis.client import PubSub, RedisClient
from rap.registry import Lease, Snapshot, State
from rap.registry import redis as scripts
from rap.registry.redis import RedisRegistry
from rap.registry.redis_watch import Keys
from tests.loopback import serving
from tests.redis_server import RedisCluster, RedisSentinel, RedisServer
from tests.registry.fake_clock import FakeClock
from tests.registry.sample import make_endpoint, ports, until_true, watching

TTL = 1.0  # seconds
LONG = 60.0
NEVER_POLL = 3600.0
PATIENT = 10.0  # seconds for a command where no server is frozen; a busy machine may need them
SHORT = 0.5  # the same where a server is frozen, and the test waits until that is noticed

Connect = Callable[..., RedisRegistry]


@pytest.fixture
async def connect(namespace: str) -> AsyncGenerator[Connect, None]:
    """Make registries on a Redis, with short pauses between polls."""
    async with AsyncExitStack() as stack:

        def one_more(
            url: str, poll_interval: float = 0.3, seed: int = 1, *, timeout: float = PATIENT
        ) -> RedisRegistry:
            registry = RedisRegistry(
                url,
                namespace=namespace,
                poll_interval=poll_interval,
                timeout=timeout,
                rng=random.Random(seed),
            )
            stack.push_async_callback(registry.aclose)
            return registry

        yield one_more


class Watched:
    """The last snapshot of a watch that runs in the background, and whether one was ever empty."""

    def __init__(self) -> None:
        self.snapshot: Snapshot = {}
        self.emptied = False

    def has(self, *numbers: int) -> bool:
        return ports(self.snapshot) == set(numbers)

    async def follow(self, snapshots: AsyncIterator[Snapshot]) -> None:
        async for snapshot in snapshots:
            self.emptied |= bool(self.snapshot) and not snapshot
            self.snapshot = snapshot


@asynccontextmanager
async def watched(registry: RedisRegistry, service: str = "calc") -> AsyncIterator[Watched]:
    seen = Watched()
    async with watching(registry, service) as snapshots:
        following = asyncio.create_task(seen.follow(snapshots))
        try:
            yield seen
            assert not following.done()
            assert not seen.emptied
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def leased(registry: RedisRegistry, *numbers: int) -> AsyncIterator[list[Lease]]:
    async with AsyncExitStack() as stack:
        leases = [Lease(registry, "calc", make_endpoint(it), TTL) for it in numbers]
        for lease in leases:
            await stack.enter_async_context(lease)
        yield leases


async def register(registry: RedisRegistry, number: int) -> None:
    """Register an endpoint; try again while a busy machine exceeds the limit of a command."""

    async def registered() -> bool:
        try:
            await registry.register("calc", make_endpoint(number), ttl=LONG)
        except RegistryError:
            return False
        return True

    await until_true(registered)


def fails_over(group: RedisSentinel | RedisCluster, key: str, old: RedisServer) -> bool:
    """Whether another server than `old` has the key."""
    if isinstance(group, RedisSentinel):
        return group.primary is not old
    return group.owner(key) is not old


async def test_a_server_killed_and_started_empty_has_everybody_back(
    redis_single: RedisServer, connect: Connect
) -> None:
    servers, client = connect(redis_single.url), connect(redis_single.url)
    async with leased(servers, 1, 2, 3) as leases, watched(client) as seen:
        await until_true(lambda: seen.has(1, 2, 3))
        redis_single.kill()
        await until_true(lambda: client.degraded and not any(it.healthy for it in leases))
        assert seen.has(1, 2, 3)
        redis_single.start()
        await until_true(lambda: all(it.healthy for it in leases))
        await until_true(lambda: seen.has(1, 2, 3) and not client.degraded)


async def test_an_emptied_server_has_everybody_back(
    redis_single: RedisServer, connect: Connect
) -> None:
    servers, client = connect(redis_single.url), connect(redis_single.url)
    async with leased(servers, 1, 2) as leases, watched(client) as seen:
        await until_true(lambda: seen.has(1, 2))
        redis_single.command("FLUSHALL")
        await until_true(lambda: redis_single.command("DBSIZE") > 0)
        await until_true(lambda: seen.has(1, 2) and all(it.healthy for it in leases))


async def test_a_watch_of_an_emptied_server_keeps_what_it_knew(
    redis_single: RedisServer, connect: Connect
) -> None:
    server, client = connect(redis_single.url), connect(redis_single.url, 0.05)
    await server.register("calc", make_endpoint(1), ttl=LONG)
    async with watched(client) as seen:
        await until_true(lambda: seen.has(1))
        redis_single.command("FLUSHALL")
        polls = int(redis_single.info("stats")["total_commands_processed"])
        await until_true(
            lambda: int(redis_single.info("stats")["total_commands_processed"]) > polls + 20
        )
        assert seen.has(1)


async def test_a_frozen_server_degrades_discovery_and_nothing_else(
    redis_single: RedisServer, connect: Connect
) -> None:
    servers, client = (connect(redis_single.url, timeout=SHORT) for _ in range(2))
    async with leased(servers, *range(1, 7)) as leases, watched(client) as seen:
        await until_true(lambda: seen.has(*range(1, 7)))
        redis_single.freeze()
        try:
            await until_true(lambda: client.degraded and client.age > 1.5 * TTL)
            with pytest.raises(RegistryError, match="no answer in"):
                await servers.services()
            assert seen.has(*range(1, 7))
        finally:
            redis_single.thaw()
        # All leases ran out meanwhile, and yet nobody is removed.
        await until_true(lambda: not client.degraded and all(it.healthy for it in leases))
        await register(servers, 7)
        await until_true(lambda: seen.has(*range(1, 8)))
        await until_true(lambda: all(it.state is State.UP for it in seen.snapshot.values()))


async def test_a_lost_message_is_made_up_for_by_the_poll(
    redis_single: RedisServer, connect: Connect, namespace: str
) -> None:
    client = connect(redis_single.url)
    for port in (1, 2):
        await client.register("calc", make_endpoint(port), ttl=LONG)
    async with watched(client) as seen:
        await until_true(lambda: seen.has(1, 2))
        *keys, channel = Keys.of(namespace, "calc")
        args: list[str | int] = [f"{channel}:nowhere", 86_400, 1024, "10.0.0.1:1", "first"]
        await client._redis.run(scripts._DEREGISTER, keys, args)
        await until_true(lambda: seen.has(2))


async def test_a_lease_deleted_while_its_server_runs_is_written_again(
    redis_single: RedisServer, connect: Connect, namespace: str
) -> None:
    registry = connect(redis_single.url)
    keys = Keys.of(namespace, "calc")
    async with leased(registry, 1), watched(registry) as seen:
        await until_true(lambda: seen.has(1))
        redis_single.command("ZREM", keys.lease, "10.0.0.1:1")
        await until_true(lambda: redis_single.command("ZCARD", keys.lease) == 1)
        assert seen.has(1)


async def test_a_dropped_subscription_is_made_anew_and_everything_read(
    redis_single: RedisServer, connect: Connect
) -> None:
    server, client = connect(redis_single.url), connect(redis_single.url, NEVER_POLL)
    async with watched(client) as seen:
        await server.register("calc", make_endpoint(1), ttl=LONG)
        await until_true(lambda: seen.has(1))
        redis_single.command("CLIENT", "KILL", "TYPE", "pubsub")
        await server.register("calc", make_endpoint(2), ttl=LONG)
        await until_true(lambda: seen.has(1, 2))
        await server.register("calc", make_endpoint(3), ttl=LONG)
        await until_true(lambda: seen.has(1, 2, 3))


@pytest.fixture
def two_servers(redis_single: RedisServer, tmp_path: Path) -> Iterator[list[RedisServer]]:
    with RedisServer(tmp_path / "other") as other:
        yield [redis_single, other]


async def test_two_histories_at_the_same_version_are_told_apart_by_their_chain(
    two_servers: list[RedisServer], connect: Connect, namespace: str
) -> None:
    """An asynchronous failover that lost writes, done by hand."""
    old, new = two_servers
    version = Keys.of(namespace, "calc").ver
    old_side, new_side = connect(old.url), connect(new.url)
    await old_side.register("calc", make_endpoint(1), ttl=LONG)
    new.command("REPLICAOF", "127.0.0.1", old.port)
    await until_true(lambda: new.command("HGET", version, "v") == "1")
    new.command("REPLICAOF", "NO", "ONE")
    await old_side.register("calc", make_endpoint(2), ttl=LONG)
    await new_side.register("calc", make_endpoint(3), ttl=LONG)
    at = [it.command("HMGET", version, "e", "v", "h") for it in two_servers]
    assert at[0][:2] == at[1][:2]
    assert at[0][2] != at[1][2]
    async with watched(old_side) as seen:
        await until_true(lambda: seen.has(1, 2))
        try:
            old.command("REPLICAOF", "127.0.0.1", new.port)
            await until_true(lambda: seen.has(1, 3))
        finally:
            old.command("REPLICAOF", "NO", "ONE")


async def test_a_primary_that_was_demoted_refuses_and_is_left(
    two_servers: list[RedisServer], connect: Connect
) -> None:
    old, new = two_servers
    registry = connect(old.url)
    await registry.services()
    old.command("REPLICAOF", "127.0.0.1", new.port)
    try:
        with pytest.raises(RegistryError, match="read only replica"):
            await registry.register("calc", make_endpoint(1), ttl=LONG)
    finally:
        old.command("REPLICAOF", "NO", "ONE")
    await registry.register("calc", make_endpoint(1), ttl=LONG)


@pytest.fixture(params=["sentinel", "cluster"])
def group(request: pytest.FixtureRequest) -> Iterator[RedisSentinel | RedisCluster]:
    found: RedisSentinel | RedisCluster = request.getfixturevalue(f"redis_{request.param}")
    yield found
    found.heal()


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_failover_keeps_everybody_and_goes_on(
    group: RedisSentinel | RedisCluster, connect: Connect, namespace: str, fault: str
) -> None:
    key = Keys.of(namespace, "calc").ver
    servers, client = (connect(group.url, timeout=SHORT) for _ in range(2))
    async with leased(servers, 1, 2, 3, 4) as leases, watched(client) as seen:
        await until_true(lambda: seen.has(1, 2, 3, 4))
        old = group.primary if isinstance(group, RedisSentinel) else group.owner(key)
        getattr(old, fault)()
        await until_true(lambda: fails_over(group, key, old))
        await until_true(lambda: all(it.healthy for it in leases) and not client.degraded)
        await register(servers, 5)
        await until_true(lambda: seen.has(1, 2, 3, 4, 5))


async def port_of(redis: RedisClient) -> int:
    """Return where the commands of a link go."""
    return int((await redis.call("INFO", "server"))["tcp_port"])


@pytest.fixture
async def replaced(
    redis_sentinel: RedisSentinel, clock: FakeClock
) -> AsyncGenerator[tuple[RedisClient, PubSub], None]:
    """A link and a listener of it whose primary Sentinel has replaced; the old one answers."""
    redis = RedisClient(redis_sentinel.url, clock=clock, timeout=PATIENT)
    old = redis_sentinel.primary
    async with AsyncExitStack() as stack:  # also if the failover does not come in time
        stack.callback(redis_sentinel.heal)
        stack.push_async_callback(redis.aclose)
        assert await port_of(redis) == old.port
        listener = await redis.subscribe("x")
        stack.push_async_callback(listener.aclose)
        redis_sentinel.sentinels[0].command("SENTINEL", "FAILOVER", RedisSentinel.NAME)
        await until_true(lambda: old not in redis_sentinel.primaries())
        yield redis, listener


async def test_a_primary_that_sentinel_replaced_is_left_although_it_answers(
    redis_sentinel: RedisSentinel, replaced: tuple[RedisClient, PubSub], clock: FakeClock
) -> None:
    redis, listener = replaced
    assert not await redis.primary_moved(listener)
    clock.advance(6.0)
    assert await redis.primary_moved(listener)
    assert await port_of(redis) == redis_sentinel.primary.port


async def test_who_only_sends_commands_leaves_it_too(
    redis_sentinel: RedisSentinel, replaced: tuple[RedisClient, PubSub], clock: FakeClock
) -> None:
    redis, listener = replaced
    clock.advance(6.0)

    async def moved() -> bool:
        return await port_of(redis) == redis_sentinel.primary.port

    await until_true(moved)
    assert await redis.primary_moved(listener)  # although somebody else has found out


async def test_a_registration_is_never_made_at_it(
    redis_sentinel: RedisSentinel, clock: FakeClock, namespace: str
) -> None:
    old = redis_sentinel.primary
    registry = RedisRegistry(redis_sentinel.url, namespace=namespace, clock=clock, timeout=PATIENT)
    async with AsyncExitStack() as stack:
        stack.callback(redis_sentinel.heal)
        stack.push_async_callback(registry.aclose)
        await registry.register("calc", make_endpoint(1), ttl=LONG)
        redis_sentinel.sentinels[0].command("SENTINEL", "FAILOVER", RedisSentinel.NAME)
        await until_true(lambda: old not in redis_sentinel.primaries())
        old.command("REPLICAOF", "NO", "ONE")  # as until a sentinel gets at it: it takes writes
        clock.advance(6.0)
        await registry.register("calc", make_endpoint(2), ttl=LONG)
        lease = Keys.of(namespace, "calc").lease
        assert redis_sentinel.primary.command("ZSCORE", lease, make_endpoint(2).id) is not None
        assert old.command("ZSCORE", lease, make_endpoint(2).id) is None


async def test_who_begins_to_listen_to_the_new_one_takes_the_commands_along(
    redis_sentinel: RedisSentinel, replaced: tuple[RedisClient, PubSub]
) -> None:
    redis, _ = replaced
    fresh = await redis.subscribe("x")
    assert not await redis.primary_moved(fresh)
    await fresh.aclose()
    assert await port_of(redis) == redis_sentinel.primary.port


async def test_a_subscription_on_a_frozen_node_of_a_cluster_moves_to_another(
    redis_cluster: RedisCluster, connect: Connect, namespace: str
) -> None:
    keys = Keys.of(namespace, "calc")
    owner = redis_cluster.owner(keys.ver)
    server = connect(redis_cluster.url, timeout=SHORT)
    await register(server, 1)
    for seed in range(50):  # until the node that is listened to is not the one that is read
        async with watched(connect(redis_cluster.url, NEVER_POLL, seed, timeout=SHORT)) as seen:
            await until_true(lambda seen=seen: seen.has(1))  # type: ignore[misc]  # bound now
            heard = [it for it in redis_cluster.servers if listens(it, keys.channel)]
            if heard == [owner]:
                continue
            heard[0].freeze()
            try:
                await register(server, 2)
                await until_true(lambda seen=seen: seen.has(1, 2))  # type: ignore[misc]
            finally:
                redis_cluster.heal()
            return
    raise AssertionError("every subscription sits on the same node")


def listens(node: RedisServer, channel: str) -> bool:
    """Whether somebody is subscribed there."""
    return bool(node.command("PUBSUB", "NUMSUB", channel)[1])


async def test_while_redis_is_down_calls_go_on_and_a_client_starts_from_the_cache(
    tmp_path: Path,
) -> None:
    async def which() -> int:
        return 7

    with RedisServer(tmp_path / "redis") as redis:
        server_options = {"service": "calc", "registry": redis.url, "drain_delay": 0}
        url = f"{redis.url}?cache={tmp_path / 'cache'}"
        async with serving(which, **server_options) as server:
            async with Client(service="calc", registry=url) as before:
                assert await before.raw_call("which") == 7
                redis.kill()
                await until_true(lambda: client_status(before).degraded is True)
                assert server.is_serving
                async with Client(service="calc", registry=url) as cold:
                    assert await cold.raw_call("which") == await before.raw_call("which") == 7
                    assert readiness([], [cold]).ready
                assert readiness([server], [before]).ready
