"""What the scripts do to the keys of a service, by looking at the keys."""

import time
from collections.abc import AsyncGenerator

import pytest

from rap.errors import RegistryError
from rap.registry.redis import RedisRegistry
from rap.registry.redis_watch import Keys
from rap.registry.self_preservation import to_evict
from tests.redis_fixtures import limited, limited_words
from tests.redis_server import RedisServer
from tests.registry.sample import make_endpoint, ports, until, until_true, watching

LONG = 30.0  # seconds to live
DAY = 86_400


@pytest.fixture(params=["single", "old"])
def server(request: pytest.FixtureRequest) -> RedisServer:
    found: RedisServer = request.getfixturevalue(f"redis_{request.param}")
    return found


@pytest.fixture
async def registry(server: RedisServer, namespace: str) -> AsyncGenerator[RedisRegistry]:
    made = RedisRegistry(server.url, namespace=namespace, timeout=10.0)
    yield made
    await made.aclose()


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys.of(namespace, "calc")


def now(server: RedisServer) -> int:
    seconds, microseconds = server.command("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


@pytest.mark.parametrize(
    ("total", "silent", "seconds"),
    [
        (3, 2, 1),  # fewer than four: all may go
        (4, 1, 1),
        (4, 2, 1),
        (13, 2, 1),
        (14, 2, 1),
        (20, 3, 1),
        (20, 4, 1),
        (20, 4, 599),
        (20, 4, 601),
        (20, 19, 601),
    ],
)
async def test_a_heartbeat_removes_as_many_of_the_silent_as_may_be(
    server: RedisServer, registry: RedisRegistry, keys: Keys, total: int, silent: int, seconds: int
) -> None:
    everybody = [make_endpoint(port) for port in range(1, total + 1)]
    for endpoint in everybody:
        await registry.register("calc", endpoint, ttl=LONG)
    dead = [endpoint.id for endpoint in everybody[-silent:]]
    past = now(server) - seconds * 1000
    server.command("ZADD", keys.lease, *(word for each in dead for word in (past, each)))
    await registry.register("calc", everybody[0], ttl=LONG)
    gone = set(to_evict(dict.fromkeys(dead, float(seconds)), total))
    left = {endpoint.id for endpoint in everybody} - gone
    assert set(server.command("HKEYS", keys.inst)) == left
    assert set(server.command("ZRANGE", keys.lease, 0, -1)) == left
    log = server.command("XRANGE", keys.log, "-", "+")
    told = {fields[3] for _, fields in log if fields[1] == "exp"}
    assert told == gone


async def test_a_record_whose_lease_was_deleted_goes_when_its_server_is_gone_too(
    server: RedisServer, registry: RedisRegistry, keys: Keys
) -> None:
    await registry.register("calc", make_endpoint(1), ttl=LONG)
    await registry.register("calc", make_endpoint(2), ttl=LONG)
    server.command("ZREM", keys.lease, make_endpoint(2).id)
    await registry.register("calc", make_endpoint(1), ttl=0.1)  # gives it as much as its own
    assert now(server) < int(server.command("ZSCORE", keys.lease, make_endpoint(2).id))

    async def removed() -> bool:
        await registry.register("calc", make_endpoint(1), ttl=LONG)
        return set(server.command("HKEYS", keys.inst)) == {make_endpoint(1).id}

    await until_true(removed)


async def test_a_lease_that_was_given_back_is_renewed_by_its_owner(
    server: RedisServer, registry: RedisRegistry, keys: Keys
) -> None:
    for port in (1, 2):
        await registry.register("calc", make_endpoint(port), ttl=LONG)
    version = server.command("HGET", keys.ver, "v")
    server.command("ZREM", keys.lease, make_endpoint(2).id)
    for port in (1, 2):
        await registry.register("calc", make_endpoint(port), ttl=LONG)
    assert server.command("ZCARD", keys.lease) == 2
    assert server.command("HGET", keys.ver, "v") == version


async def test_each_heartbeat_keeps_the_keys_for_a_day(
    server: RedisServer, registry: RedisRegistry, keys: Keys
) -> None:
    registry.report_load("calc", make_endpoint().id, {"conns": 1})
    for _ in range(2):
        await registry.register("calc", make_endpoint(), ttl=LONG)
    kept = [key for key in keys if key != keys.channel]
    for key in kept:
        server.command("EXPIRE", key, 60)
    version = server.command("HGET", keys.ver, "v")
    await registry.register("calc", make_endpoint(), ttl=LONG)
    assert [server.command("TTL", key) for key in kept] == [DAY] * len(kept)
    assert server.command("HGET", keys.ver, "v") == version  # nothing else has changed


async def test_only_what_changes_the_set_is_published(
    server: RedisServer, registry: RedisRegistry
) -> None:
    def published() -> int:
        line = server.info("commandstats").get("cmdstat_publish", "calls=0,")
        return int(line.partition("calls=")[2].partition(",")[0])

    before = published()
    for _ in range(3):
        await registry.register("calc", make_endpoint(), ttl=LONG)
    assert published() == before + 1
    other = RedisRegistry(server.url, namespace=registry._namespace)  # which has never registered
    await other.register("calc", make_endpoint(), ttl=LONG)
    await other.aclose()
    assert published() == before + 1
    await registry.register("calc", make_endpoint(weight=2), ttl=LONG)
    assert published() == before + 2


async def test_without_a_version_a_new_epoch_begins_and_the_log_with_it(
    server: RedisServer, registry: RedisRegistry, keys: Keys
) -> None:
    for port in (1, 2, 3):
        await registry.register("calc", make_endpoint(port), ttl=LONG)
    old = int(server.command("HGET", keys.ver, "e"))
    server.command("DEL", keys.ver)
    await until_true(lambda: now(server) > old)
    before = now(server)
    await registry.register("calc", make_endpoint(4), ttl=LONG)
    epoch, version = map(int, server.command("HMGET", keys.ver, "e", "v"))
    assert old < before <= epoch <= now(server)
    assert version == 1
    log = server.command("XRANGE", keys.log, "-", "+")
    assert [entry for entry, _ in log] == [f"{epoch}-1"]


async def test_a_host_whose_clock_is_wrong_registers_as_any_other(
    server: RedisServer,
    registry: RedisRegistry,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 7200.0)
    await registry.register("calc", make_endpoint(), ttl=LONG)
    expiry = int(server.command("ZSCORE", keys.lease, make_endpoint().id))
    assert 0 < expiry - now(server) <= LONG * 1000


async def test_redis_without_memory_refuses_in_whole(
    server: RedisServer, registry: RedisRegistry, keys: Keys
) -> None:
    await registry.register("calc", make_endpoint(1), ttl=LONG)
    kept = [key for key in keys if key != keys.channel]
    before = [server.command("DUMP", key) for key in kept]
    server.command("CONFIG", "SET", "maxmemory", 1)
    try:
        for port in (1, 2):  # a heartbeat, and a registration
            with pytest.raises(RegistryError, match="maxmemory"):
                await registry.register("calc", make_endpoint(port), ttl=LONG)
        assert [server.command("DUMP", key) for key in kept] == before
        await registry.deregister("calc", make_endpoint(1))
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    assert not server.command("EXISTS", keys.inst)
    assert server.command("HGET", keys.ver, "v") == "2"


async def test_a_user_who_may_do_no_more_than_the_page_says_is_enough(
    server: RedisServer, namespace: str
) -> None:
    server.command("SCRIPT", "FLUSH")
    with limited(server) as url:
        registry = RedisRegistry(url, namespace=namespace, timeout=10.0)
        async with watching(registry) as snapshots:
            for state in range(3):
                registry.report_load("calc", make_endpoint(1).id, {"conns": state})
                await registry.register("calc", make_endpoint(1), ttl=LONG)
            await registry.register("calc", make_endpoint(2), ttl=LONG)
            await until(snapshots, lambda it: ports(it) == {1, 2})
            await registry.deregister("calc", make_endpoint(2))
            await until(snapshots, lambda it: ports(it) == {1})
        assert await registry.services() == ["calc"]
        assert await registry.loads("calc") == {make_endpoint(1).id: {"conns": 2}}
        await registry.aclose()


@pytest.mark.parametrize("word", ["keys", "scan", "config", "flushall", "all", "admin"])
def test_the_page_allows_nothing_dangerous(word: str) -> None:
    assert not {f"+{word}", f"+@{word}"} & set(limited_words())
