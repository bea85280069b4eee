"""Dialling: what the error says, and that nothing is left open however it ends."""

import asyncio
import importlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rap.address import Address
from rap.errors import Code, Unavailable, VersionMismatch
from rap.testing import FakeClock
from rap.transport import ConnectionOptions
from rap.transport.dial import dial, in_turn
from rap.transport.inproc import new_address
from rap.transport.listen import listen
from rap.wire.codec import pack
from rap.wire.frames import HELLO, Frame, go_away_frame
from tests.loopback import Unnoticed, eventually, swallowing, within
from tests.transport.pairs import DEFAULTS, Pair

MODULE = importlib.import_module("rap.transport.dial")  # the package has a function of this name


@asynccontextmanager
async def silent(
    greeting: bytes = b"",
) -> AsyncIterator[tuple[Address, list[asyncio.StreamReader]]]:
    """Listen and say no more than `greeting`; the list has a reader for each that came."""
    came: list[asyncio.StreamReader] = []
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(reader)
        writers.append(writer)
        writer.write(greeting)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield Address("tcp", "127.0.0.1", server.sockets[0].getsockname()[1]), came
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await eventually(lambda: all(writer.transport.is_closing() for writer in writers))


def new_pair() -> Pair:
    return Pair(DEFAULTS, DEFAULTS, None)


async def test_a_refused_connection_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        address = Address("tcp", "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(Unavailable, match=f"cannot reach {address}: ") as caught:
            await dial(address, new_pair().make_client, timeout=10)
    assert caught.value.unserved
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_missing_unix_socket_is_named() -> None:
    with pytest.raises(Unavailable, match="cannot reach unix:///nowhere/at/all: "):
        await dial(Address("unix", path="/nowhere/at/all"), new_pair().make_client, timeout=10)


async def test_a_client_names_a_server_that_has_no_host_by_its_address(tmp_path: Path) -> None:
    for address in (Address("unix", path=f"{tmp_path}/s"), new_address("shop/a")):
        pair = new_pair()
        listener = await listen(address, pair.make_server, backlog=1)
        try:
            conn = await dial(address, pair.make_client, timeout=10)
            assert str(conn.peer) == str(address)
            assert conn.peer.is_local
        finally:
            listener.close()
            await pair.end()


async def test_a_silent_server_fails_the_dial_in_time() -> None:
    pair, clock = new_pair(), FakeClock()
    async with silent() as (address, came):
        dialling = asyncio.create_task(dial(address, pair.make_client, timeout=0.05, clock=clock))
        await eventually(lambda: came and pair.client is not None)
        clock.jump(0.05)
        with pytest.raises(Unavailable, match=f"cannot reach {address}: no answer in 0.05 s"):
            await within(dialling)
        await within(asyncio.shield(pair.client.ended))
        await within(came[0].read())


async def test_a_dial_that_is_cancelled_leaves_nothing_open(unnoticed: Unnoticed) -> None:
    pair = new_pair()
    async with silent() as (address, came):
        dialling = asyncio.create_task(dial(address, pair.make_client, timeout=60))
        await eventually(lambda: came)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await within(asyncio.shield(pair.client.ended))
        await within(came[0].read())
    await unnoticed.check()


async def test_a_dial_that_is_cancelled_at_any_step_leaves_nothing_open(
    unnoticed: Unnoticed,
) -> None:
    for steps in range(12):
        pair = new_pair()
        listener = await listen(Address("tcp", "127.0.0.1"), pair.make_server, backlog=5)
        dialling = asyncio.create_task(dial(listener.address, pair.make_client, timeout=60))
        for _ in range(steps):
            await asyncio.sleep(0)
        dialling.cancel()
        try:
            await dialling
        except asyncio.CancelledError:
            if pair.client is not None and pair.client.transport is not None:
                await within(asyncio.shield(pair.client.ended))
        for _ in range(20):  # the server may not have accepted yet
            await asyncio.sleep(0)
        listener.close()
        await pair.end()
    await unnoticed.check()


async def test_a_server_of_another_version_is_told_apart() -> None:
    pair = new_pair()
    async with silent(Frame(HELLO, 0, 0, b"", pack({"rap": 2})).encode()) as (address, _):
        with pytest.raises(VersionMismatch) as caught:
            await dial(address, pair.make_client, timeout=10)
    assert str(caught.value) == (
        f"{address}: no version of the wire protocol in common: the client speaks 1, the server 2;"
        " upgrade rap on the client"
    )


async def test_a_server_of_another_protocol_is_told_apart() -> None:
    pair = new_pair()
    async with silent(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (address, _):
        with pytest.raises(Unavailable, match=f"cannot reach {address}: .*speaks HTTP"):
            await dial(address, pair.make_client, timeout=10)


async def test_a_refusal_of_the_server_is_passed_on() -> None:
    pair = new_pair()

    def make_strict() -> object:
        conn = pair.make_server()
        conn.protocol.out.append(go_away_frame(0, Code.RESOURCE_EXHAUSTED, "too many of you"))
        return conn

    listener = await listen(Address("tcp", "127.0.0.1"), make_strict, backlog=5)  # type: ignore[arg-type]
    try:
        with pytest.raises(Unavailable, match="refused the connection: too many of you"):
            await dial(listener.address, pair.make_client, timeout=10)
    finally:
        listener.close()
        await pair.end()


async def test_a_server_in_a_drain_says_so() -> None:
    pair = Pair(DEFAULTS, ConnectionOptions(hello={"draining": True}), None)
    listener = await listen(Address("tcp", "127.0.0.1"), pair.make_server, backlog=5)
    try:
        with pytest.raises(Unavailable, match=f"cannot reach {listener.address}: .*is draining"):
            await dial(listener.address, pair.make_client, timeout=10)
        await within(asyncio.shield(pair.client.ended))
    finally:
        listener.close()
        await pair.end()


def info(host: str, port: int = 80) -> tuple[Any, ...]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name resolve to these addresses."""

    async def resolve(name: str, port: int) -> list[Any]:
        return [info(host, port) for host in hosts]

    monkeypatch.setattr(MODULE, "_resolve", resolve)


def waits_in_vain(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that gets the seconds of each wait that passes before anything is done."""
    waited: list[float] = []
    wait = asyncio.wait

    async def noting(tasks: Any, *, timeout: float | None = None, **options: Any) -> Any:
        done, pending = await wait(tasks, timeout=timeout, **options)
        if timeout is not None and not done:
            waited.append(timeout)
        return done, pending

    monkeypatch.setattr(asyncio, "wait", noting)
    return waited


@pytest.mark.parametrize("silent_hosts", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
async def test_addresses_that_swallow_packets_delay_a_dial_by_a_quarter_second_each(
    monkeypatch: pytest.MonkeyPatch, silent_hosts: list[str]
) -> None:
    pair = new_pair()
    listener = await listen(Address("tcp", "127.0.0.1"), pair.make_server, backlog=5)
    port = listener.address.port
    resolve_to(monkeypatch, *silent_hosts, "127.0.0.1")
    waited = waits_in_vain(monkeypatch)
    with ExitStack() as stack:
        for host in silent_hosts:
            stack.enter_context(swallowing(host, port))
        began = time.monotonic()
        await dial(Address("tcp", "svc.test", port), pair.make_client, timeout=10)
        assert time.monotonic() - began > 0.2
    assert waited == [0.25] * len(silent_hosts)
    listener.close()
    await listener.settled()
    await pair.end()


async def test_an_address_that_refuses_delays_a_dial_by_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MODULE, "_ATTEMPT_DELAY", 60)
    pair = new_pair()
    listener = await listen(Address("tcp", "127.0.0.1"), pair.make_server, backlog=5)
    resolve_to(monkeypatch, "::1", "127.0.0.2", "127.0.0.1")
    await within(
        dial(Address("tcp", "svc.test", listener.address.port), pair.make_client, timeout=10)
    )
    listener.close()
    await listener.settled()
    await pair.end()


@pytest.mark.parametrize("hosts", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
async def test_the_error_of_a_name_says_that_its_addresses_refuse(
    monkeypatch: pytest.MonkeyPatch, hosts: list[str]
) -> None:
    resolve_to(monkeypatch, *hosts)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address("tcp", "svc.test", taken.getsockname()[1])
        with pytest.raises(Unavailable) as caught:
            await dial(address, new_pair().make_client, timeout=10)
    why = "connection refused; does the server run, and is this its address?"
    assert str(caught.value) == f"cannot reach {address}: {why}"


async def test_a_dial_to_several_addresses_that_is_cancelled_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, unnoticed: Unnoticed
) -> None:
    with swallowing("127.0.0.2") as port, swallowing("127.0.0.3", port):
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.3")
        with pytest.raises(Unavailable, match=r"no answer in 0\.3 s"):
            await dial(Address("tcp", "svc.test", port), new_pair().make_client, timeout=0.3)


def test_addresses_of_both_families_are_tried_in_turn() -> None:
    infos = [info(host) for host in ("::1", "::2", "::1", "127.0.0.1", "127.0.0.2", "127.0.0.3")]
    hosts = [each[4][0] for each in in_turn(infos)]
    assert hosts == ["::1", "127.0.0.1", "::2", "127.0.0.2", "127.0.0.3"]
    assert in_turn([]) == []
