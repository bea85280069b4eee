"""TLS handshakes count as connections without a Hello, and can be closed."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from faults.raw import Raw, speaking
from rap.client import Client
from rap.errors import ConnectionClosed, Unavailable
from rap.server import Server
from rap.transport.listen import Handshake, TlsServer
from rap.transport.tls import ServerTls
from tests.loopback import eventually, serving, within
from tests.test_seed import write_certificate
from tests.transport.pairs import DEFAULTS, Pair

ON_BOTH_LOOPS = True


async def fine() -> int:
    return 1


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    write_certificate(tmp_path)
    names = {"ssl_crt_path": "rap_ssl.crt", "ssl_key_path": "rap_ssl.key"}
    return {option: str(tmp_path / name) for option, name in names.items()}


def client_of(server: Server, files: dict[str, str]) -> Client:
    return Client(server.addresses, ssl_crt_path=files["ssl_crt_path"])


def silent(server: Server) -> int:
    return server.connection_manager.accept_limiter.pending


@asynccontextmanager
async def crowd(server: Server, count: int) -> AsyncIterator[list[Raw]]:
    """Connect so often, one after the other, and begin no TLS."""
    limiter = server.connection_manager.accept_limiter

    def come() -> int:
        return silent(server) + limiter.refused["max_handshakes"]

    async with AsyncExitStack() as stack:
        found = []
        for expected in range(come() + 1, come() + 1 + count):
            found.append(await stack.enter_async_context(speaking(server.addresses[0].port, b"")))
            await eventually(lambda expected=expected: come() == expected)  # type: ignore[misc]
        yield found


async def test_the_oldest_handshake_is_closed_for_a_new_one(files: dict[str, str]) -> None:
    async with serving(fine, max_handshakes=2, **files) as server:
        async with client_of(server, files) as before, crowd(server, 3) as peers:
            assert await peers[0].closed() == b""
            assert server.connection_manager.accept_limiter.refused["max_handshakes"] == 1
            assert silent(server) == 2
            async with client_of(server, files) as client:
                assert await client.raw_call("fine") == 1
            assert await peers[1].closed() == b""
            assert await before.raw_call("fine") == 1


async def test_a_connection_without_a_hello_still_counts_after_its_handshake(
    files: dict[str, str],
) -> None:
    context = ssl.create_default_context(cafile=files["ssl_crt_path"])
    context.check_hostname = False
    async with serving(fine, max_handshakes=2, **files) as server:
        port = server.addresses[0].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        await eventually(lambda: len(server.connection_manager.connections) == 1)
        assert silent(server) == 1
        async with crowd(server, 2):
            await within(reader.read())
            assert silent(server) == 2
            assert not server.connection_manager.connections
        writer.transport.abort()


@pytest.mark.parametrize(("said", "timeout"), [(b"no TLS at all, and long enough", 5), (b"", 0.05)])
async def test_a_failed_handshake_is_no_longer_counted(
    files: dict[str, str], said: bytes, timeout: float
) -> None:
    async with serving(fine, handshake_timeout=timeout, **files) as server:
        async with speaking(server.addresses[0].port, said) as peer:
            await peer.closed()
            await eventually(lambda: not silent(server))


async def test_a_client_that_disconnects_in_its_handshake_is_no_longer_counted(
    files: dict[str, str],
) -> None:
    async with serving(fine, **files) as server:
        async with crowd(server, 1):
            assert silent(server) == 1
        await eventually(lambda: not silent(server))


async def test_handshakes_do_not_delay_the_stop_of_a_server(files: dict[str, str]) -> None:
    async with serving(fine, close_timeout=60, **files) as server, crowd(server, 2) as peers:
        await within(server.await_closed())
        for peer in peers:
            assert await peer.closed() == b""
        assert silent(server) == 0


async def test_many_clients_connect_at_once(files: dict[str, str]) -> None:
    async with serving(fine, **files) as server:
        clients = [client_of(server, files) for _ in range(30)]
        await within(asyncio.gather(*(client.connect() for client in clients)))
        assert await asyncio.gather(*(client.raw_call("fine") for client in clients)) == [1] * 30
        assert silent(server) == 0
        await asyncio.gather(*(client.await_close() for client in clients))


@asynccontextmanager
async def accepting(
    files: dict[str, str], sock: Any, on_begin: Any = id, on_failed: Any = id
) -> AsyncIterator[TlsServer]:
    server = TlsServer(
        sock,
        Pair(DEFAULTS, DEFAULTS, None).make_server,
        ServerTls(files["ssl_crt_path"], files["ssl_key_path"]),
        backlog=5,
        timeout=5,
        on_begin=on_begin,
        on_failed=on_failed,
    )
    yield server
    server.close()
    await within(server.wait_closed())


class Exhausted:
    """A listening socket of a process that once has too many files open."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.failures = 1

    def accept(self) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def test_an_error_of_accept_is_logged_and_retried(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rap.transport.listen._RETRY", 0.01)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    begun: list[Handshake] = []
    async with accepting(files, Exhausted(sock), begun.append, lambda _: begun.clear()):
        async with speaking(sock.getsockname()[1], b""):
            await eventually(lambda: begun)
        assert "cannot accept a connection: [Errno 24] too many open files" in caplog.text
    assert not begun


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_handshake_closed_before_it_begins_leaves_no_socket_open(
    files: dict[str, str], at_once: bool
) -> None:
    loop = asyncio.get_running_loop()
    begun: list[tuple[Handshake, socket.socket]] = []
    failed: list[Any] = []

    def cut(handshake: Handshake) -> None:
        begun.append((handshake, handshake._sock))
        error = ConnectionClosed("for one more")
        if at_once:
            handshake.abort(error)
        else:  # before its task has run
            loop.call_soon(handshake.abort, error)

    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    async with accepting(files, sock, cut, failed.append):
        async with speaking(sock.getsockname()[1], b"") as peer:
            assert await peer.closed() == b""
        ((handshake, accepted),) = begun
        assert accepted.fileno() == -1
        assert failed == ([] if at_once else [handshake.conn])


async def test_a_server_can_stop_while_it_waits_to_accept_again(files: dict[str, str]) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    exhausted = Exhausted(sock)
    async with accepting(files, exhausted):
        async with speaking(sock.getsockname()[1], b""):
            await eventually(lambda: not exhausted.failures)
    assert sock.fileno() == -1


@pytest.mark.parametrize("delay", [60, 0], ids=["listening", "closed"])
async def test_a_drain_can_be_cut_short_before_and_after_the_listeners_close(
    files: dict[str, str], delay: float
) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async with serving(wait, close_timeout=60, drain_delay=delay, **files) as server:
        async with client_of(server, files) as client:
            call = asyncio.create_task(client.raw_call("wait"))
            await eventually(lambda: client.cluster.ready[0].stats.in_flight)
            closing = asyncio.create_task(server.await_closed())
            await eventually(lambda: delay or not client.cluster.ready)
            server.connection_manager.stop_at_once()
            await within(closing)
            with pytest.raises(Unavailable):
                await call


async def test_connections_in_a_handshake_count_towards_the_bound_of_connections(
    files: dict[str, str],
) -> None:
    async with serving(fine, max_connections=2, **files) as server:
        limit = server.connection_manager.limit
        async with client_of(server, files) as client:
            assert await client.raw_call("fine") == 1
            async with AsyncExitStack() as stack:
                port = server.addresses[0].port
                for _ in range(30):
                    await stack.enter_async_context(speaking(port, b""))
                await eventually(lambda: limit.refused >= 10)
                assert silent(server) <= 18
                assert await client.raw_call("fine") == 1
        await eventually(lambda: not silent(server))
        async with client_of(server, files) as late:
            assert await within(late.raw_call("fine")) == 1
