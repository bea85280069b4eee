"""The way to Redis: forms of URL, errors, limits of time, and finding the servers."""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from rap.errors import RegistryError
from rap.redis.client import RedisClient, Script
from tests.redis_fixtures import redis_cluster
from tests.redis_server import (
    HOW_TO_GET_ONE,
    RedisCluster,
    RedisServer,
    find_redis_server,
    wait_until,
)

__all__ = ["redis_cluster"]

pytestmark = pytest.mark.skipif(find_redis_server() is None, reason=HOW_TO_GET_ONE)

Connect = Callable[..., RedisClient]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
async def connect() -> AsyncGenerator[Connect, None]:
    async with AsyncExitStack() as stack:

        def one_more(url: str, timeout: float = 2.0) -> RedisClient:
            redis = RedisClient(url, timeout=timeout, rng=random.Random(1))
            stack.push_async_callback(redis.aclose)
            return redis

        yield one_more


async def test_commands_and_scripts_are_answered_in_bytes(
    server: RedisServer, connect: Connect
) -> None:
    redis = connect(server.url)
    await redis.call("SET", "key", "value")
    assert await redis.call("GET", "key") == b"value"
    script = Script("return {KEYS[1], ARGV[1], redis.call('GET', KEYS[1])}")
    assert await redis.run(script, ["key"], [1]) == [b"key", b"1", b"value"]
    assert not redis.degraded


async def test_a_server_that_forgot_a_script_is_sent_it_again(
    server: RedisServer, connect: Connect
) -> None:
    redis, script = connect(server.url), Script("return 'known'")
    for _ in range(2):
        assert await redis.run(script, ["key"], []) == b"known"
        server.command("SCRIPT", "FLUSH")
    assert await redis.run(script, ["key"], []) == b"known"


async def test_an_error_reply_is_a_registry_error_that_names_the_server(
    server: RedisServer, connect: Connect
) -> None:
    redis = connect(server.url)
    with pytest.raises(RegistryError, match=f"{server.address}.*unknown command"):
        await redis.call("NONSENSE", "key")
    with pytest.raises(RegistryError, match="mine"):
        await redis.run(Script("return redis.error_reply('ERR mine')"), ["key"], [])


async def test_a_server_that_is_not_there_is_a_registry_error(connect: Connect) -> None:
    redis = connect("redis://:secret@127.0.0.1:1/0")
    for _ in range(3):
        with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1") as caught:
            await redis.call("GET", "key")
        assert "secret" not in str(caught.value)
    assert redis.degraded


async def test_a_frozen_server_costs_no_more_than_the_limit(
    server: RedisServer, connect: Connect
) -> None:
    redis = connect(server.url, timeout=0.1)
    while not await answers(redis, "key"):
        pass  # a busy machine needs more than the limit
    server.freeze()
    try:
        many = [redis.call("GET", "key") for _ in range(5)]
        results = await asyncio.gather(*many, return_exceptions=True)
        assert [str(it) for it in results] == [
            f"Redis at redis://{server.address}: no answer in 0.1 s"
        ] * 5
        assert redis.degraded
    finally:
        server.thaw()
    while not await answers(redis, "other"):
        pass
    assert not redis.degraded
    assert redis.age < 2.0


async def test_a_frozen_node_of_a_cluster_is_left_although_others_answer(
    redis_cluster: RedisCluster, connect: Connect
) -> None:
    redis = connect(redis_cluster.url, timeout=2.0)  # a busy machine needs it for what must answer
    names = [f"key-{number}" for number in range(100)]
    frozen = redis_cluster.owner(names[0])
    other = next(name for name in names if redis_cluster.owner(name) is not frozen)
    while not await answers(redis, names[0]):
        pass
    frozen.freeze()
    try:
        many = asyncio.gather(
            *(redis.call("GET", names[0]) for _ in range(200)), return_exceptions=True
        )
        async with asyncio.timeout(60):  # nobody waits behind what is stuck there
            assert await redis.call("GET", other) is None
            await many
            while not await answers(redis, names[0]):
                assert await redis.call("GET", other) is None
    finally:
        redis_cluster.heal()


async def test_a_slot_that_moved_is_followed_at_once(
    redis_cluster: RedisCluster, connect: Connect
) -> None:
    redis, key = connect(redis_cluster.url), "key"
    await redis.call("SET", key, "here")
    old = redis_cluster.owner(key)
    table = str(old.command("CLUSTER", "NODES")).splitlines()
    (mine,) = (line.split()[0] for line in table if "myself" in line)
    (follower,) = (line.split()[1] for line in table if line.split()[3] == mine)
    port = int(follower.partition("@")[0].rpartition(":")[2])
    new = next(server for server in redis_cluster.servers if server.port == port)
    new.command("CLUSTER", "FAILOVER")
    await asyncio.to_thread(wait_until, lambda: redis_cluster.owner(key) is new, "failover")
    await asyncio.to_thread(
        wait_until, lambda: old.info("replication")["role"] == "slave", "failover"
    )
    assert await redis.call("GET", key) == b"here"
    redis_cluster.heal()


async def answers(redis: RedisClient, key: str) -> bool:
    try:
        await redis.call("GET", key)
    except RegistryError:
        return False
    return True


async def test_more_commands_than_connections_wait_for_their_turn(
    server: RedisServer, connect: Connect
) -> None:
    redis = connect(server.url)
    replies = await asyncio.gather(*(redis.call("ECHO", str(i)) for i in range(500)))
    assert replies == [str(i).encode() for i in range(500)]
    assert int(server.info("clients")["connected_clients"]) <= 66


async def test_a_cancelled_command_is_cancelled(server: RedisServer, connect: Connect) -> None:
    redis, rng = connect(server.url), random.Random(1)

    async def calling() -> None:
        while True:
            await redis.call("GET", "key")

    for _ in range(200):
        task = asyncio.create_task(calling())
        for _ in range(rng.randrange(40)):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done


async def test_a_database_and_a_password_come_from_the_url(
    tmp_path: Path, connect: Connect
) -> None:
    with RedisServer(tmp_path) as private:
        private.command("CONFIG", "SET", "requirepass", "p@ss")
        redis = connect(f"redis://:p%40ss@{private.address}/3")
        await redis.call("SET", "key", "three")
        assert await connect(f"redis://:p%40ss@{private.address}/0").call("GET", "key") is None
        with pytest.raises(RegistryError, match=r"[Aa]uthentication|invalid"):
            await connect(f"redis://:wrong@{private.address}").call("GET", "key")


async def test_a_unix_socket_will_do(tmp_path: Path, connect: Connect) -> None:
    path = tmp_path / "r.sock"
    with RedisServer(tmp_path, ["--unixsocket", str(path)]) as local:
        redis = connect(f"redis+unix://{path}?db=1")
        await redis.call("SET", "key", "value")
        assert local.command("GET", "key") is None
        listener = await redis.subscribe("ch")
        local.command("PUBLISH", "ch", "hello")
        assert await listener.next(5.0) == b"hello"
        await listener.aclose()


async def test_a_listener_hears_messages_pongs_and_silence(
    server: RedisServer, connect: Connect
) -> None:
    listener = await connect(server.url).subscribe("ch")
    assert await listener.next(0.01) is None
    await listener.ping()
    assert await listener.next(5.0) == b""
    server.command("PUBLISH", "ch", "hello")
    assert await listener.next(5.0) == b"hello"
    server.command("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(RegistryError, match="lost the subscription"):
        await listener.next(5.0)
    await listener.aclose()


async def test_listening_to_a_server_that_is_not_there_is_a_registry_error(
    connect: Connect,
) -> None:
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1"):
        await connect("redis://127.0.0.1:1").subscribe("ch")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://127.0.0.1:1/main", "no sentinel of .* names a primary"),
        ("redis+cluster://127.0.0.1:1", "no node of .* knows the owners of the slots"),
    ],
)
async def test_a_group_of_which_nobody_answers_is_a_registry_error(
    connect: Connect, url: str, reason: str
) -> None:
    redis = connect(url)
    with pytest.raises(RegistryError, match=reason):
        await redis.call("GET", "key")
    with pytest.raises(RegistryError, match=reason):
        await redis.subscribe("x")


async def test_a_link_that_was_closed_opens_again(server: RedisServer, connect: Connect) -> None:
    redis = connect(server.url)
    for _ in range(2):
        assert await redis.call("ECHO", "hello") == b"hello"
        await redis.aclose()


async def test_tls_verifies_the_server_by_the_given_authority(
    server: RedisServer, connect: Connect, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    async with tls_in_front_of(server, certificate, key) as port:
        trusting = connect(f"rediss://localhost:{port}?ssl_ca_path={certificate}")
        assert await trusting.call("ECHO", "hello") == b"hello"
        with pytest.raises(RegistryError, match="certificate verify failed"):
            await connect(f"rediss://localhost:{port}").call("ECHO", "hello")
        with pytest.raises(RegistryError, match="certificate verify failed"):
            await connect(f"rediss://127.0.0.1:{port}?ssl_ca_path={certificate}").call("ECHO", "x")


@pytest.mark.parametrize("timeout", [0, -1, None, "1"])
def test_a_bad_timeout_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        RedisClient("redis://localhost", timeout=timeout)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for localhost, signed by itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "crt.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@asynccontextmanager
async def tls_in_front_of(server: RedisServer, certificate: Path, key: Path) -> AsyncIterator[int]:
    """Forward from a port with TLS to a server without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    open_writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", server.port)
        open_writers.extend((writer, behind[1]))
        await asyncio.gather(copy(reader, behind[1]), copy(behind[0], writer))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port: int = proxy.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        proxy.close()
        for writer in open_writers:
            writer.close()
        await asyncio.gather(*(it.wait_closed() for it in open_writers), return_exceptions=True)
