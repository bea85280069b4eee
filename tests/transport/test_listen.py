"""Listening: one port on every local address, a file that is ours, and errors that name it."""

import asyncio
import errno
import os
import socket
from pathlib import Path

import pytest

from rap.address import Address
from rap.errors import ConnectionClosed
from rap.server import Server
from rap.transport import Connection
from rap.transport.dial import dial
from rap.transport.listen import _bind_all, listen
from tests.loopback import within
from tests.transport.pairs import DEFAULTS, Pair

LOOPBACK = Address("tcp", "127.0.0.1")


def new_pair() -> Pair:
    return Pair(DEFAULTS, DEFAULTS, None)


async def test_port_0_binds_a_free_one_and_tells_which() -> None:
    pair = new_pair()
    listener = await listen(LOOPBACK, pair.make_server, backlog=5)
    assert listener.address.port > 0
    conn = await dial(listener.address, pair.make_client, timeout=10)
    assert conn.peer.is_local
    assert pair.server.peer.host == "127.0.0.1"
    listener.close()
    await pair.end()


async def test_a_closed_listener_accepts_nothing_and_keeps_its_connections() -> None:
    pair = new_pair()
    listener = await listen(LOOPBACK, pair.make_server, backlog=5)
    await dial(listener.address, pair.make_client, timeout=10)
    listener.close()
    await listener.settled()
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", listener.address.port)) == errno.ECONNREFUSED
    pair.echo()
    assert await within(pair.call(b"x").future) == b"x"
    await pair.end()


async def test_localhost_is_all_its_addresses_with_one_port() -> None:
    pair = new_pair()
    listener = await listen(Address("tcp", "localhost"), pair.make_server, backlog=5)
    infos = await asyncio.get_running_loop().getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    reached = 0
    for family, _, _, _, sockaddr in dict.fromkeys(infos):
        with socket.socket(family) as sock:
            reached += sock.connect_ex((sockaddr[0], listener.address.port)) == 0
    assert reached >= 1
    listener.close()
    await pair.end()


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_without_descriptors_a_server_says_so_once_and_accepts_later(
    scheme: str,
    socket_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        pytest.skip("uvloop accepts connections in C, and pauses by itself")
    monkeypatch.setattr("rap.transport.listen._RETRY", 0.002)
    address = LOOPBACK if scheme == "tcp" else Address("unix", path=str(socket_path))
    pair, attempts = new_pair(), 0
    accept = socket.socket.accept

    def fail(sock: socket.socket) -> tuple[socket.socket, object]:
        nonlocal attempts
        attempts += 1
        if attempts <= 20:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", fail)
    listener = await listen(address, pair.make_server, backlog=100)
    try:
        await within(dial(listener.address, pair.make_client, timeout=10))
    finally:
        listener.close()
    assert attempts > 20
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith("cannot accept a connection: [Errno 24] Too many open files")
    await pair.end()


async def test_an_address_in_use_is_named_and_nothing_is_left_bound() -> None:
    first = await listen(LOOPBACK, new_pair().make_server, backlog=5)
    with pytest.raises(OSError, match=f"cannot listen on {first.address}: ") as caught:
        await listen(first.address, new_pair().make_server, backlog=5)
    assert caught.value.errno == errno.EADDRINUSE
    first.close()
    await first.settled()
    again = await listen(first.address, new_pair().make_server, backlog=5)
    again.close()


async def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 203\.0\.113\.1:0: ") as caught:
        await listen(Address("tcp", "203.0.113.1"), new_pair().make_server, backlog=5)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_an_absent_address_of_a_name_is_left_out_if_another_is_there() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    sockets = _bind_all([(*info, ("203.0.113.1", 0)), (*info, ("127.0.0.1", 0))], 0)
    assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1"]
    for sock in sockets:
        sock.close()


def test_a_port_that_is_taken_on_one_address_of_a_name_binds_none() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            _bind_all([(*info, ("127.0.0.1", port)), (*info, ("127.0.0.2", port))], port)
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))


async def test_a_unix_socket_is_removed_when_it_is_closed(socket_path: Path) -> None:
    pair = new_pair()
    address = Address("unix", path=str(socket_path))
    listener = await listen(address, pair.make_server, backlog=5)
    conn = await dial(address, pair.make_client, timeout=10)
    assert conn.peer.is_local
    assert str(conn.peer) == str(address)
    listener.close()
    listener.close()
    assert socket_path.name not in os.listdir(socket_path.parent)
    await pair.end()


async def test_a_unix_socket_that_another_server_listens_on_is_not_taken_over(
    socket_path: Path,
) -> None:
    address = Address("unix", path=str(socket_path))
    pair = new_pair()
    first = await listen(address, pair.make_server, backlog=5)
    with pytest.raises(OSError, match=f"cannot listen on unix://{socket_path}: .*in use"):
        await listen(address, new_pair().make_server, backlog=5)
    await dial(address, pair.make_client, timeout=10)
    first.close()
    await pair.end()


async def test_a_unix_socket_of_a_server_that_died_is_replaced(socket_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(socket_path))
    dead.close()
    listener = await listen(
        Address("unix", path=str(socket_path)), new_pair().make_server, backlog=5
    )
    listener.close()
    assert socket_path.name not in os.listdir(socket_path.parent)


async def test_a_file_that_took_our_place_is_left_alone(socket_path: Path) -> None:
    address = Address("unix", path=str(socket_path))
    listener = await listen(address, new_pair().make_server, backlog=5)
    os.rename(socket_path, f"{socket_path}.ours")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(socket_path))
        listener.close()
        assert socket_path.name in os.listdir(socket_path.parent)


async def test_a_path_that_is_a_file_or_too_long_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_text("keep me")
    for path in (plain, tmp_path / ("x" * 200)):
        with pytest.raises(OSError, match=f"cannot listen on unix://{path}: "):
            await listen(Address("unix", path=str(path)), new_pair().make_server, backlog=5)
    assert plain.read_text() == "keep me"


async def test_a_listen_that_fails_after_binding_leaves_nothing_bound() -> None:
    with pytest.raises(TypeError):
        await listen(LOOPBACK, new_pair().make_server, backlog="many")  # type: ignore[arg-type]


async def test_several_processes_may_share_a_port_if_they_say_so() -> None:
    pair = new_pair()
    first = await listen(LOOPBACK, pair.make_server, backlog=5, reuse_port=True)
    second = await listen(first.address, pair.make_server, backlog=5, reuse_port=True)
    assert second.address == first.address
    first.close()
    second.close()


def test_a_disabled_address_family_is_left_out() -> None:
    off = (socket.AddressFamily(0), socket.SOCK_STREAM, 0, "", ("nowhere", 0))
    on = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))
    (sock,) = _bind_all([off, on], 0)
    sock.close()
    with pytest.raises(OSError, match="not supported"):
        _bind_all([off], 0)
    with pytest.raises(OSError, match="the name has no address"):
        _bind_all([], 0)


async def test_a_unix_socket_whose_server_is_too_busy_to_accept_is_not_taken_over(
    socket_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(socket_path))
        busy.listen(0)
        waiting.setblocking(False)
        waiting.connect_ex(str(socket_path))
        with pytest.raises(OSError, match="in use"):
            await listen(Address("unix", path=str(socket_path)), new_pair().make_server, backlog=5)


@pytest.mark.parametrize("turns", range(4))
async def test_a_listener_that_closes_keeps_accepted_sockets(turns: int) -> None:
    made: list[Connection] = []

    def make() -> Connection:
        made.append(new_pair().make_server())
        return made[-1]

    listener = await listen(LOOPBACK, make, backlog=5)
    with socket.create_connection((LOOPBACK.host, listener.address.port)):
        for _ in range(turns):  # how far the loop comes with the connection
            await asyncio.sleep(0)
        listener.close()
        await listener.settled()
        assert len(made) == 1 or turns < 2
        for conn in made:
            assert conn.transport is not None
            conn.abort(ConnectionClosed("the test is over"))
            await within(conn.ended)


@pytest.mark.parametrize("host", ["::", "0.0.0.0"])
async def test_a_wildcard_address_is_all_addresses_of_its_families(host: str) -> None:
    pair = new_pair()
    listener = await listen(Address("tcp", host), pair.make_server, backlog=5)
    port = listener.address.port
    with socket.socket() as sock, socket.socket(socket.AF_INET6) as sock6:
        assert sock.connect_ex(("127.0.0.1", port)) == 0
        assert (sock6.connect_ex(("::1", port)) == 0) == (host == "::")
    listener.close()
    await listener.settled()
    await pair.end()


async def test_a_server_may_list_the_wildcard_addresses_of_both_families() -> None:
    v4 = await listen(Address("tcp", "0.0.0.0"), new_pair().make_server, backlog=5)
    hosts = [f"0.0.0.0:{v4.address.port}", f"[::]:{v4.address.port}"]
    v4.close()
    await v4.settled()
    for order in hosts, hosts[::-1]:
        async with Server(order) as server:
            assert sorted(str(address) for address in server.addresses) == sorted(hosts)
