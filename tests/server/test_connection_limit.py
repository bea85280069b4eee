"""Connections are bounded by the descriptors of the process; who comes later is told so."""

import asyncio
import resource
import socket
import ssl
from typing import Any

import pytest

from rap.client import Client
from rap.errors import Code, Unavailable
from rap.server import Server
from rap.server.process_limits import default_max_connections
from rap.server.stats import limits_of
from rap.wire.frames import GOAWAY, HELLO, parse_frames, read_go_away
from tests.loopback import calling, eventually, serving, within
from tests.transport.certificates import Certificates
from tests.wire.endpoints import hello


async def add(a: int, b: int) -> int:
    return a + b


def refused(server: Server) -> int:
    return next(each.refused for each in limits_of(server) if each.name == "max_connections")


async def test_a_client_beyond_the_limit_is_told_and_gets_in_when_another_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(add, max_connections=2) as server, calling(server) as first:
        async with calling(server) as second:
            for client in (first, second):
                assert await client.raw_call("add", 1, 2) == 3
            late = Client(str(server.addresses[0]), wait_for_ready=False)
            with pytest.raises(Unavailable, match="has 2 connections open and takes no more"):
                await late.raw_call("add", 1, 2)
            assert await first.raw_call("add", 1, 2) == 3
        assert await within(late.raw_call("add", 1, 2, wait_for_ready=True, timeout=10)) == 3
        await late.close()
        assert refused(server) >= 1
    logged = [each for each in caplog.messages if each.startswith("new connections are refused")]
    assert logged == [
        "new connections are refused (1 so far): 2 are open, and that is its max_connections"
    ]


async def test_the_refusal_is_the_answer_to_whatever_the_client_sends() -> None:
    async with serving(add, max_connections=1) as server, calling(server) as client:
        await client.raw_call("add", 1, 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0].port)
        writer.write(hello().encode())
        said = parse_frames(await within(reader.read()))
        writer.close()
    assert [frame.kind for frame in said] == [HELLO, GOAWAY]
    assert said[1].stream_id == 0
    assert read_go_away(said[1].body)[0] == Code.RESOURCE_EXHAUSTED


async def test_many_refused_connections_at_once_hold_few_descriptors() -> None:
    async with serving(add, max_connections=1) as server, calling(server) as client:
        await client.raw_call("add", 1, 2)
        port = server.addresses[0].port
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        connections = server.connection_manager
        await eventually(lambda: refused(server) == 50 and len(connections.connections) <= 17)
        await eventually(lambda: len(connections.connections) == 1)
        assert await client.raw_call("add", 1, 2) == 3
        for sock in socks:
            sock.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def what_a_client_reads(port: int, **options: Any) -> tuple[bytes, Exception | None]:
    """Connect, say Hello at once, and return everything that comes, and how that ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    data, end = b"", None
    try:
        writer.write(hello().encode())
        while part := await reader.read(1024):
            data += part
    except ConnectionError as error:
        end = error
    finally:
        writer.transport.abort()
    return data, end


@pytest.mark.parametrize("is_tls", [False, True])
async def test_many_clients_that_are_refused_at_once_read_why(
    is_tls: bool, certificates: Certificates
) -> None:
    options: dict[str, Any] = {}
    context: dict[str, Any] = {}
    if is_tls:
        pair = certificates.server
        options = {"ssl_crt_path": pair.crt_path, "ssl_key_path": pair.key_path}
        trusting = ssl.create_default_context(cafile=certificates.authority.crt_path)
        trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 sets it, and asks for more
        context = {"ssl": trusting, "server_hostname": "localhost"}
    async with serving(add, max_connections=1, **options) as server:
        port = server.addresses[0].port
        _, first = await asyncio.open_connection("127.0.0.1", port, **context)
        first.write(hello().encode())
        await eventually(lambda: len(server.connection_manager.connections) == 1)
        count = 12 if is_tls else 100  # handshakes beyond the sixteenth end at once
        found = await within(
            asyncio.gather(*(what_a_client_reads(port, **context) for _ in range(count)))
        )
        first.transport.abort()
    assert refused(server) == count
    assert [end for _, end in found if end is not None] == []
    assert sum(b"takes no more" in data for data, _ in found) == count


async def test_a_refused_client_that_sends_late_or_much_is_not_cut_before_it_has_read() -> None:
    async with serving(add, max_connections=1) as server, calling(server) as client:
        await client.raw_call("add", 1, 2)
        port = server.addresses[0].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await eventually(lambda: refused(server) == 1)
        writer.write(hello().encode() + b"x" * 100_000)
        assert b"takes no more" in await within(reader.read())
        writer.close()
        await eventually(lambda: len(server.connection_manager.connections) == 1)


async def test_a_drain_and_a_withdrawal_leave_refused_connections_alone() -> None:
    async with serving(add, max_connections=1) as server, calling(server) as client:
        await client.raw_call("add", 1, 2)
        port = server.addresses[0].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await eventually(lambda: refused(server) == 1)
        connections = server.connection_manager
        connections.set_draining(True)
        (leaving,) = [each for each in connections.connections if each.peer_hello == {}]
        leaving.go_away(message="late")
        assert b"takes no more" in await within(reader.read())
        leaving.dismiss(Code.UNAUTHENTICATED, "withdrawn")
        await within(asyncio.shield(leaving.ended))
        writer.close()


def test_the_default_leaves_a_reserve_of_the_limit_of_the_system() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        most, why = default_max_connections()
        assert most is not None
        assert 512 <= most < 1024 - 128
        assert "ulimit -n" in why
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
