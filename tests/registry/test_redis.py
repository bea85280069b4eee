"""What only the registry in Redis promises: its keys, its scripts, and how it is read."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from hashlib import sha1
from typing import Any

import pytest

from rap.errors import RegistryError
from rap.registry import AddressTaken, LeaseLost, Reports, SnapshotCache, State
from rap.registry.records import to_record
from rap.registry.redis import RedisRegistry
from rap.wire.codec import pack
from tests.redis_server import RedisServer
from tests.registry.sample import make_endpoint, ports, until, until_true, watching

LONG = 30.0  # seconds to live
NEVER_POLL = 3600.0  # seconds; then only hints can have shown a change


@pytest.fixture
async def registry(redis_single: RedisServer, namespace: str) -> AsyncGenerator[RedisRegistry]:
    made = RedisRegistry(redis_single.url, namespace=namespace, timeout=10.0)
    yield made
    await made.aclose()


def key(namespace: str, part: str) -> str:
    return f"rap:{{{namespace}/calc}}:{part}"


def calls(server: RedisServer, command: str) -> int:
    """How often a command was run, also inside scripts."""
    line = server.info("commandstats").get(f"cmdstat_{command}", "calls=0,")
    return int(line.partition("calls=")[2].partition(",")[0])


async def test_a_hint_makes_a_change_visible_without_a_poll(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    client = RedisRegistry(redis_single.url, namespace=namespace, poll_interval=NEVER_POLL)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        snapshots = await stack.enter_async_context(watching(client))
        assert await anext(snapshots) == {}
        for port in range(1, 6):
            await registry.register("calc", make_endpoint(port), ttl=LONG)
        await until(snapshots, lambda it: ports(it) == {1, 2, 3, 4, 5})
        await registry.deregister("calc", make_endpoint(2))
        await until(snapshots, lambda it: ports(it) == {1, 3, 4, 5})


async def test_changes_are_read_from_the_log(
    redis_single: RedisServer, registry: RedisRegistry
) -> None:
    await registry.register("calc", make_endpoint(1), ttl=LONG)
    async with watching(registry) as snapshots:
        await anext(snapshots)
        full, log = calls(redis_single, "zrange"), calls(redis_single, "xrange")
        for port in (2, 3):
            await registry.register("calc", make_endpoint(port), ttl=LONG)
            await until(snapshots, lambda it, port=port: port in ports(it))  # type: ignore[misc]
        assert calls(redis_single, "zrange") == full
        assert calls(redis_single, "xrange") >= log + 2


async def test_the_keys_are_as_documented(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    endpoint = make_endpoint(metadata={"version": "1"})
    for _ in range(2):
        registry.report_load("calc", endpoint.id, {"in_flight": 1})
        await registry.register("calc", endpoint, ttl=LONG)
    record = pack(to_record(endpoint))
    chain = sha1(b"|put|" + endpoint.id.encode() + b"|" + record).hexdigest()[:12]
    command = redis_single.command
    assert command("HKEYS", key(namespace, "inst")) == [endpoint.id]
    assert command("HKEYS", key(namespace, "load")) == [endpoint.id]
    assert command("HMGET", key(namespace, "ver"), "v", "h") == ["1", chain]
    [[entry_id, fields]] = command("XRANGE", key(namespace, "log"), "-", "+")
    assert entry_id == f"{command('HGET', key(namespace, 'ver'), 'e')}-1"
    assert fields[::2] == ["o", "i", "r", "h"]
    assert command("SISMEMBER", "rap:services", f"{namespace}/calc") == 1
    seconds, microseconds = command("TIME")
    now = int(seconds) * 1000 + int(microseconds) // 1000
    left = int(command("ZSCORE", key(namespace, "lease"), endpoint.id)) - now
    assert LONG * 500 < left <= LONG * 1000
    for part in ("inst", "lease", "load", "ver", "log"):
        assert 86_000 < command("TTL", key(namespace, part)) <= 86_400


@pytest.mark.parametrize("gone", ["lease", "inst", "ver"])
async def test_a_registration_that_redis_lost_is_an_error_once_and_then_written_in_full(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str, gone: str
) -> None:
    await registry.register("calc", make_endpoint(), ttl=LONG)
    redis_single.command("DEL", key(namespace, gone))
    with pytest.raises(LeaseLost, match=r"10\.0\.0\.1:9000"):
        await registry.register("calc", make_endpoint(), ttl=LONG)
    await registry.register("calc", make_endpoint(), ttl=LONG)
    await registry.register("calc", make_endpoint(), ttl=LONG)
    async with watching(registry) as snapshots:
        assert [it.state for it in (await anext(snapshots)).values()] == [State.UP]


async def test_an_address_that_another_took_meanwhile_is_an_error_of_the_heartbeat(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    await registry.register("calc", make_endpoint(), ttl=LONG)
    other = pack(to_record(make_endpoint(incarnation="second")))
    redis_single.command("HSET", key(namespace, "inst"), make_endpoint().id, other)
    for _ in range(2):
        with pytest.raises(AddressTaken, match=r"10\.0\.0\.1:9000"):
            await registry.register("calc", make_endpoint(), ttl=LONG)


async def test_a_record_that_is_none_is_replaced_by_the_one_whose_address_it_has(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    await registry.register("calc", make_endpoint(), ttl=LONG)
    redis_single.command("HSET", key(namespace, "inst"), make_endpoint().id, "nonsense")
    with pytest.raises(LeaseLost):
        await registry.register("calc", make_endpoint(), ttl=LONG)
    await registry.register("calc", make_endpoint(), ttl=LONG)
    async with watching(registry) as snapshots:
        assert ports(await anext(snapshots)) == {9000}


@pytest.mark.parametrize("part", ["inst", "lease", "ver"])
async def test_a_key_of_another_type_stops_a_script_before_its_first_write(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str, part: str
) -> None:
    redis_single.command("SET", key(namespace, part), "mine")
    name = re.escape(key(namespace, part))
    kind = "sorted set" if part == "lease" else "hash"
    with pytest.raises(RegistryError, match=f"the key {name} holds a string, not a {kind}: .*DEL"):
        await registry.register("calc", make_endpoint(), ttl=LONG)
    parts = ("inst", "lease", "load", "ver", "log")
    there = [it for it in parts if redis_single.command("EXISTS", key(namespace, it))]
    assert there == [part]


@pytest.mark.parametrize("part", ["load", "log"])
async def test_servers_are_found_although_a_key_that_is_not_needed_has_another_type(
    redis_single: RedisServer,
    registry: RedisRegistry,
    namespace: str,
    part: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_single.command("SET", key(namespace, part), "mine")
    async with watching(registry) as snapshots:
        await anext(snapshots)
        for port in (1, 2):
            await registry.register("calc", make_endpoint(port), ttl=LONG)
            await until(snapshots, lambda it, port=port: port in ports(it))  # type: ignore[misc]
        registry.report_load("calc", make_endpoint(1).id, {"cpu": 0.5})
        await registry.register("calc", make_endpoint(1), ttl=LONG)
        await registry.deregister("calc", make_endpoint(2))
        await until(snapshots, lambda it: ports(it) == {1})
    assert registry.last_error == ""
    assert redis_single.command("GET", key(namespace, part)) == "mine"
    assert redis_single.command("TTL", key(namespace, part)) == -1
    name = key(namespace, part)
    texts = [r.message for r in caplog.records if "registered without" in r.message]
    assert len(texts) == 1
    assert f"the key {name} holds a string" in texts[0]
    assert "delete it (`DEL`)" in texts[0]


@pytest.mark.parametrize("part", ["inst", "lease", "ver"])
async def test_the_known_servers_stay_while_a_key_has_another_type(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str, part: str
) -> None:
    name, kept = key(namespace, part), key(namespace, "kept")
    await registry.register("calc", make_endpoint(), ttl=LONG)
    async with watching(registry) as snapshots:
        assert ports(await anext(snapshots)) == {9000}
        redis_single.command("RENAME", name, kept)
        redis_single.command("RPUSH", name, "mine")
        redis_single.command("PUBLISH", key(namespace, "ch"), "0 0 0")
        reading = asyncio.ensure_future(anext(snapshots))
        if part == "ver":  # the others are read only after a change
            await until_true(lambda: f"the key {name} holds a list" in registry.last_error)
        redis_single.command("DEL", name)
        redis_single.command("RENAME", kept, name)
        await registry.register("calc", make_endpoint(1), ttl=LONG)
        assert ports(await reading) == {1, 9000}
    assert registry.last_error == ""


async def test_a_log_ahead_of_its_version_begins_anew(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    for port in (1, 2, 3):
        await registry.register("calc", make_endpoint(port), ttl=LONG)
    redis_single.command("HSET", key(namespace, "ver"), "v", 1)
    async with watching(registry) as snapshots:
        await anext(snapshots)
        await registry.register("calc", make_endpoint(4), ttl=LONG)
        await until(snapshots, lambda it: ports(it) == {1, 2, 3, 4})
    assert redis_single.command("XLEN", key(namespace, "log")) == 1


async def test_a_log_that_was_cut_short_is_made_up_for_by_reading_all(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    await registry.register("calc", make_endpoint(1), ttl=LONG)
    async with watching(registry) as snapshots:
        await anext(snapshots)
        await registry.register("calc", make_endpoint(2), ttl=LONG)
        redis_single.command("XTRIM", key(namespace, "log"), "MAXLEN", 0)
        await registry.register("calc", make_endpoint(3), ttl=LONG)
        await until(snapshots, lambda it: ports(it) == {1, 2, 3})


async def test_the_log_stays_short(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    for weight in range(1, 901):
        await registry.register("calc", make_endpoint(weight=weight), ttl=LONG)
        await registry.register("calc", make_endpoint(2, weight=weight), ttl=LONG)
    assert redis_single.command("XLEN", key(namespace, "log")) <= 1024 + 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("v", "nonsense"), ("v", "nan"), ("v", "9" * 5000), ("e", b"\xff"), ("h", b"\xff\xfe")],
)
async def test_nonsense_in_the_version_keeps_nobody_from_the_set(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str, field: str, value: bytes
) -> None:
    await registry.register("calc", make_endpoint(1), ttl=LONG)
    client = RedisRegistry(redis_single.url, namespace=namespace, poll_interval=0.05)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        known = await stack.enter_async_context(watching(client))
        await anext(known)
        redis_single.command("HSET", key(namespace, "ver"), field, value)
        new = await stack.enter_async_context(watching(client))
        assert ports(await anext(new)) == {1}
        await registry.register("calc", make_endpoint(2), ttl=LONG)
        for snapshots in (known, new):
            await until(snapshots, lambda it: ports(it) == {1, 2})
        assert client.last_error == ""


async def test_an_id_that_is_no_text_hides_no_other_registration(
    redis_single: RedisServer,
    registry: RedisRegistry,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = pack(to_record(make_endpoint(7)))
    await registry.register("calc", make_endpoint(1), ttl=LONG)
    redis_single.command("HSET", key(namespace, "inst"), b"\xff\xfe", record)
    redis_single.command("ZADD", key(namespace, "lease"), 2**50, b"\xff\xfe")
    async with watching(registry) as snapshots:
        assert ports(await anext(snapshots)) == {1}
        await registry.register("calc", make_endpoint(2), ttl=LONG)
        await until(snapshots, lambda it: ports(it) == {1, 2})
    assert caplog.text.count("is ignored: an id has 1 to 1024 printable characters") == 1
    assert "\\udcff\\udcfe" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        ("o", "put", "i", b"\xff", "r", "x", "h", "x"),
        ("o", b"\xff", "i", "a", "r", "x", "h", "x"),
        ("nothing", "known"),
    ],
)
async def test_a_change_that_someone_has_forged_is_made_up_for_by_reading_all(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str, fields: tuple[str, ...]
) -> None:
    await registry.register("calc", make_endpoint(1), ttl=LONG)
    async with watching(registry) as snapshots:
        await anext(snapshots)
        epoch = redis_single.command("HGET", key(namespace, "ver"), "e")
        redis_single.command("XADD", key(namespace, "log"), f"{epoch}-2", *fields)
        redis_single.command("HSET", key(namespace, "ver"), "v", 2)
        await registry.register("calc", make_endpoint(2), ttl=LONG)
        await until(snapshots, lambda it: ports(it) == {1, 2})
    assert registry.last_error == ""


async def test_an_outage_from_the_start_speaks_of_no_known_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = RedisRegistry("redis://127.0.0.1:1")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        first = asyncio.ensure_future(anext(client.watch("calc")))
        await until_true(lambda: "no set is known yet: Redis at redis://127.0.0.1:1" in caplog.text)
        first.cancel()
        await asyncio.wait([first])


async def test_a_service_is_listed_before_it_is_registered_in_full(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    redis_single.command("SET", key(namespace, "inst"), "in the way")
    with pytest.raises(RegistryError, match="WRONGTYPE"):
        await registry.register("calc", make_endpoint(), ttl=LONG)
    assert await registry.services() == ["calc"]
    redis_single.command("DEL", key(namespace, "inst"))
    for weight in (1, 2):  # each time
        redis_single.command("SREM", "rap:services", f"{namespace}/calc")
        await registry.register("calc", make_endpoint(weight=weight), ttl=LONG)
        assert await registry.services() == ["calc"]


async def test_a_service_that_could_not_be_listed_is_listed_by_a_later_renewal(
    redis_single: RedisServer, registry: RedisRegistry
) -> None:
    kept = redis_single.command("SMEMBERS", "rap:services")
    redis_single.command("DEL", "rap:services")
    redis_single.command("SET", "rap:services", "in the way")
    try:
        await registry.register("calc", make_endpoint(), ttl=LONG)
    finally:
        redis_single.command("DEL", "rap:services")
    assert await registry.services() == []
    await registry.register("calc", make_endpoint(), ttl=LONG)
    assert await registry.services() == ["calc"]
    redis_single.command("SADD", "rap:services", *kept, "default/other")


async def test_a_load_report_that_is_none_is_ignored(
    redis_single: RedisServer,
    registry: RedisRegistry,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = pack({"in_flight": 3})
    bad = ("x", "nonsense", "y", pack({"util": "high"}), b"\xff", good, "\x1b[2J", good)
    redis_single.command("HSET", key(namespace, "load"), "a", good, *bad)
    assert await registry.loads("calc") == {"a": {"in_flight": 3}}
    ignored = [each.getMessage() for each in caplog.records]
    assert len(ignored) == 4
    assert all(text.startswith("the load report of ") and text.isprintable() for text in ignored)
    with pytest.raises(ValueError, match="load 'util' must be a number"):
        registry.report_load("calc", "x", {"util": "high"})  # type: ignore[dict-item]
    assert isinstance(registry, Reports)


async def test_names_that_are_none_are_no_services(
    redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    await registry.register("calc", make_endpoint(), ttl=LONG)
    forged = [f"{namespace}/".encode() + name for name in (b"\xff", b"\x1b[2J", b"", b"a\nb")]
    redis_single.command("SADD", "rap:services", b"\xff\xfe", *forged)
    assert await registry.services() == ["calc"]
    redis_single.command("SREM", "rap:services", b"\xff\xfe", *forged)


async def test_health_tells_when_redis_answered_last(
    registry: RedisRegistry, redis_single: RedisServer
) -> None:
    await registry.services()
    assert not registry.degraded
    assert registry.age < 5.0


async def test_a_client_starts_from_the_cache_while_redis_is_down(
    tmp_path: Any, redis_single: RedisServer, registry: RedisRegistry, namespace: str
) -> None:
    await registry.register("calc", make_endpoint(), ttl=LONG)

    def client(url: str) -> RedisRegistry:
        cache = SnapshotCache(tmp_path, namespace=namespace, patience=0.1)
        return RedisRegistry(url, namespace=namespace, cache=cache, timeout=0.2)

    async with AsyncExitStack() as stack:
        warm = client(redis_single.url)
        stack.push_async_callback(warm.aclose)
        async with watching(warm) as snapshots:
            await until(snapshots, bool)
        cold = client("redis://127.0.0.1:1/0")
        stack.push_async_callback(cold.aclose)
        async with watching(cold) as snapshots:
            assert ports(await until(snapshots, bool)) == {9000}
        assert cold.degraded


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("redis://host:1/0", "host:1"),
        ("rediss://host", "tls://host:6379"),
        ("redis+sentinel://a,b/main", "a:26379"),
        ("redis+unix:///run/x", "unix:///run/x"),
    ],
)
def test_a_registry_tells_where_redis_is(url: str, location: str) -> None:
    assert str(RedisRegistry(url).location) == location


@pytest.mark.parametrize("interval", [0, -1, None, "2"])
def test_a_bad_poll_interval_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="poll_interval must be"):
        RedisRegistry("redis://localhost", poll_interval=interval)
