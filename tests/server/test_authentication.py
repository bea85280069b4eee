import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.address import Address, Peer
from rap.client import Client
from rap.errors import Code, Unauthenticated
from rap.schema.function import raw_encoder
from rap.server import Server, context
from rap.server.authentication import verify_with
from rap.server.middleware import BaseConnMiddleware
from rap.wire.codec import pack
from rap.wire.frames import (
    DATA,
    END,
    GOAWAY,
    HEADER,
    HELLO,
    MESSAGE,
    OPEN,
    Frame,
    parse_frames,
    read_go_away,
)
from rap.wire.hello import hello_frame
from tests.loopback import LOOPBACK, calling, eventually, serving, within

ON_BOTH_LOOPS = True


def identity() -> str | None:
    peer = context.call.peer
    assert peer is not None
    return None if peer.identity is None else str(peer.identity)


async def who() -> str | None:
    return identity()


async def numbers() -> AsyncIterator[int]:
    yield 1


def client_of(server: Server, **options: Any) -> Client:
    return Client(server.addresses, **{"connect_timeout": 5.0, **options})


async def is_told(client: Client, reason: str) -> None:
    """Connect a client until it was refused for a reason that may pass."""
    connecting = asyncio.create_task(client.connect())
    await eventually(lambda: client.connected is not None and reason in client.cluster.describe())
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    await client.await_close()


@pytest.mark.parametrize("token", ["secret", b"secret"])
@pytest.mark.parametrize("verifier", ["secret", b"secret"])
async def test_a_client_with_the_valid_token_is_admitted(
    token: str | bytes, verifier: str | bytes
) -> None:
    async with serving(who, verify_token=verifier) as server:
        async with client_of(server, token=token) as client:
            assert await client.raw_call("who") is None


@pytest.mark.parametrize("token", ["wrong", None, "secre", "secrets", "\ud800"])
async def test_any_other_token_is_refused_at_connect_and_in_calls(token: str | None) -> None:
    async with serving(who, numbers, verify_token="secret") as server:
        if token == "\ud800":
            token = "\N{SNOWMAN}"
        client = client_of(server, token=token)
        reason = "a token is needed" if token is None else "the token was refused"
        with pytest.raises(Unauthenticated, match=reason) as caught:
            await client.connect()
        assert caught.value.remote
        with pytest.raises(Unauthenticated, match=reason):
            await client.raw_call("who")
        with pytest.raises(Unauthenticated):
            await anext(client.iterator_call("numbers"))
        with pytest.raises(Unauthenticated):
            await client.session.__aenter__()
        await client.await_close()


async def test_a_token_may_come_from_a_function_for_each_connection() -> None:
    given: list[str] = []

    async def token() -> str:
        given.append("secret")
        return "secret"

    async with serving(who, verify_token="secret") as server:
        async with client_of(server, token=token) as client:
            await client.raw_call("who")
        async with client_of(server, token=lambda: "secret") as client:
            await client.raw_call("who")
    assert given == ["secret"]


@pytest.mark.parametrize("token", [lambda: 1 // 0, lambda: None, lambda: ""])
async def test_a_token_function_that_returns_no_token_is_an_error(token: Any) -> None:
    async with serving(who, verify_token="secret") as server:
        client = client_of(server, token=token)
        with pytest.raises(Unauthenticated, match="gave no token") as caught:
            await client.connect()
        assert not caught.value.remote
        await client.await_close()


async def test_the_verifier_sets_the_identity_of_the_peer() -> None:
    seen: list[Peer] = []

    def verify(token: str, peer: Peer) -> str | None:
        seen.append(peer)
        return {"a": "alice", "b": "bob"}.get(token)

    async with serving(who, verify_token=verify) as server:
        for token, name in [("a", "alice"), ("b", "bob")]:
            async with client_of(server, token=token) as client:
                assert await client.raw_call("who") == name
        client = client_of(server, token="c")
        with pytest.raises(Unauthenticated):
            await client.connect()
        await client.await_close()
    assert all(peer.host == "127.0.0.1" for peer in seen)


async def test_calls_wait_for_an_asynchronous_verdict() -> None:
    asked, verdict = asyncio.Event(), asyncio.Event()

    async def verify(token: str) -> str:
        asked.set()
        await verdict.wait()
        return token

    async with serving(who, verify_token=verify) as server:
        client = client_of(server, token="a")
        connecting = asyncio.create_task(client.connect())
        await within(asked.wait())
        assert not connecting.done()
        verdict.set()
        await within(connecting)
        assert await client.raw_call("who") == "a"
        await client.await_close()


def opening(token: str) -> bytes:
    """What a client sends that does not wait for an answer to its Hello."""
    call = pack(["/default/note", 0])
    return (
        hello_frame({"rap": 1, "token": token})
        + Frame(OPEN, MESSAGE | END, 1, call, raw_encoder("/default/f")([])).encode()
    )


async def frames_of(reader: asyncio.StreamReader) -> AsyncIterator[Frame]:
    while True:
        try:
            header = await reader.readexactly(HEADER.size)
        except asyncio.IncompleteReadError:
            return
        data = header + await reader.readexactly(HEADER.unpack(header)[0])
        yield parse_frames(data)[0]


async def connected(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address: Address = server.addresses[0]
    return await asyncio.open_connection(address.host, address.port)


async def test_a_call_sent_with_the_hello_waits_for_the_verdict() -> None:
    noted: list[object] = []
    asked, verdict = asyncio.Event(), asyncio.Event()

    async def note() -> None:
        noted.append(identity())

    async def verify(token: str) -> str:
        asked.set()
        await verdict.wait()
        return token

    async with serving(note, verify_token=verify) as server:
        reader, writer = await connected(server)
        writer.write(opening("alice"))
        await within(asked.wait())
        assert noted == []
        verdict.set()
        kinds = []
        async for frame in frames_of(reader):
            kinds.append(frame.kind)
            if frame.kind == DATA:
                break
        assert (kinds[0], kinds[-1]) == (HELLO, DATA)
        assert noted == ["alice"]
        writer.close()
        await writer.wait_closed()


async def test_a_call_sent_with_a_wrong_token_is_not_served() -> None:
    noted: list[int] = []

    async def note() -> None:
        noted.append(1)

    async with serving(note, verify_token="secret") as server:
        reader, writer = await connected(server)
        writer.write(opening("wrong"))
        frames = [frame async for frame in frames_of(reader)]
        assert [frame.kind for frame in frames[:2]] == [HELLO, GOAWAY]
        assert read_go_away(frames[1].body)[0] == Code.UNAUTHENTICATED
        assert DATA not in [frame.kind for frame in frames]
        assert noted == []
        writer.close()
        await writer.wait_closed()


async def test_the_hello_may_arrive_in_pieces() -> None:
    async def note() -> int:
        return 7

    async with serving(note, verify_token="secret") as server:
        reader, writer = await connected(server)
        for byte in opening("secret"):
            writer.write(bytes([byte]))
            await writer.drain()
        async for frame in frames_of(reader):
            if frame.kind == DATA:
                break
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEADER.pack(1 << 20, HELLO, 0, 0, 0), id="too long"),
        pytest.param(Frame(OPEN, 0, 1, b"", b"").encode(), id="no Hello"),
        pytest.param(Frame(HELLO, 0, 0, b"", b"\xc1").encode(), id="no msgpack"),
        pytest.param(hello_frame({"rap": 1, "token": ["secret"]}), id="no string"),
    ],
)
async def test_anything_but_a_hello_with_a_token_is_refused(sent: bytes) -> None:
    async with serving(who, verify_token="secret") as server:
        reader, writer = await connected(server)
        writer.write(sent)
        frames = []
        try:
            frames = [frame async for frame in frames_of(reader)]
        except ConnectionError:
            pass
        assert DATA not in [frame.kind for frame in frames]
        await eventually(lambda: not server.connection_manager.connections)
        writer.close()
        with pytest.MonkeyPatch.context():
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_client_that_leaves_before_the_verdict_is_forgotten() -> None:
    asked, verdict = asyncio.Event(), asyncio.Event()

    async def verify(token: str) -> bool:
        asked.set()
        await verdict.wait()
        return True

    async with serving(who, verify_token=verify) as server:
        _, writer = await connected(server)
        writer.write(opening("any"))
        await within(asked.wait())
        writer.transport.abort()
        verdict.set()
        await eventually(lambda: not server.connection_manager.connections)


async def test_a_client_that_sends_nothing_is_closed() -> None:
    async with serving(who, verify_token="secret", handshake_timeout=0.05) as server:
        reader, writer = await connected(server)
        assert await within(reader.read()) == b""
        writer.close()
        await writer.wait_closed()


async def test_a_verifier_that_raises_admits_no_client(caplog: pytest.LogCaptureFixture) -> None:
    def verify(token: str) -> bool:
        raise LookupError("the database is down")

    async with serving(who, verify_token=verify) as server:
        await is_told(client_of(server, token="any"), "could not be verified")
    assert "the database is down" in caplog.text


async def test_a_verifier_that_takes_too_long_admits_no_client() -> None:
    async def verify(token: str) -> bool:
        await asyncio.Event().wait()
        return True

    async with serving(who, verify_token=verify, handshake_timeout=0.1) as server:
        await is_told(client_of(server, token="any"), "not verified in")


async def test_an_address_with_too_many_failures_is_refused_without_verification() -> None:
    async with serving(who, verify_token="secret", max_token_failures=2) as server:
        for _ in range(2):
            client = client_of(server, token="wrong")
            with pytest.raises(Unauthenticated, match="the token was refused"):
                await client.connect()
            await client.await_close()
        client = client_of(server, token="secret")
        with pytest.raises(Unauthenticated, match="try again in 60 s"):
            await client.connect()
        await client.await_close()


async def test_a_refusal_is_logged_without_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(who, verify_token="right-one") as server:
        assert "right-one" not in repr(server.config)
        client = client_of(server, token="wrong-one")
        assert "wrong-one" not in repr(client.config)
        with pytest.raises(Unauthenticated):
            await client.connect()
        await client.await_close()
    warned = [each.name for each in caplog.records if each.levelno >= logging.WARNING]
    assert sorted(warned) == ["rap.client", "rap.server"]  # each side says it once
    assert "the token was refused" in caplog.text
    assert "right-one" not in caplog.text
    assert "wrong-one" not in caplog.text


async def test_the_token_is_not_kept() -> None:
    async with serving(who, verify_token="secret") as server:
        async with client_of(server, token="secret") as client:
            await client.raw_call("who")
            (conn,) = server.connection_manager.connections
            assert "token" not in conn.protocol.peer_hello


async def test_a_client_gets_a_new_token_after_a_refusal() -> None:
    tokens = ["old"]

    async with serving(who, verify_token=lambda token: token == "new") as server:
        client = client_of(server, token=lambda: tokens[-1])
        with pytest.raises(Unauthenticated):
            await client.connect()
        tokens.append("new")
        (node,) = client.cluster.nodes.values()
        node.pool.reset_backoff()
        await eventually(lambda: client.cluster.ready)
        assert await client.raw_call("who") is None
        await client.await_close()


async def test_middleware_decides_before_the_token_is_read() -> None:
    order: list[str] = []

    class First(BaseConnMiddleware):
        async def dispatch(self, conn: Any) -> None:
            order.append("middleware")
            await self.call_next(conn)

    def verify(token: str) -> bool:
        order.append("token")
        return True

    options: dict[str, Any] = {"middleware_list": [First()], "verify_token": verify}
    async with serving(who, **options) as server:
        async with client_of(server, token="any") as client:
            await client.raw_call("who")
    assert order == ["middleware", "token"]


async def test_a_server_without_a_verifier_ignores_tokens() -> None:
    async with serving(who) as server, calling(server, token="any") as client:
        assert await client.raw_call("who") is None


@pytest.mark.parametrize("token", ["", b"", 3, "x" * 8193])
def test_a_bad_token_is_refused_at_construction(token: Any) -> None:
    with pytest.raises(ValueError, match="token must"):
        Client(LOOPBACK.replace("0", "1"), token=token)


def test_a_bad_verifier_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="verify_token must not be empty"):
        Server(LOOPBACK, verify_token="")
    with pytest.raises(TypeError, match="verify_token must be a token or a function"):
        Server(LOOPBACK, verify_token=3)  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(ValueError, match="max_token_failures"):
        Server(LOOPBACK, max_token_failures=0)


def test_a_verifier_may_take_the_peer_or_not() -> None:
    peer = Peer("192.0.2.1", 1)
    assert verify_with(lambda token: token)("a", peer) == "a"
    assert verify_with(lambda token, peer: peer)("a", peer) is peer
    assert verify_with(str)("a", peer) == "a"
