"""What PROTOCOL.md says suffices: a peer written from it alone works with rap, on either side."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgpack
import pytest

from rap.channel import Channel
from rap.client import Client
from rap.errors import DeadlineExceeded, NotFound, Unimplemented
from rap.server import Server, context
from tests.event_loops import nothing_goes_unnoticed
from tests.loopback import eventually, serving
from tests.wire import independent
from tests.wire.independent import NOTHING, Call, Failed, Peer

__all__ = ["nothing_goes_unnoticed"]

KIB = 1024
# Meta of Opens.
CHANNEL, DEAF = (msgpack.packb([f"/default/{name}", 0]) for name in ("doubled", "deaf"))
GOING = 2**31 - 1  # in a GoAway: no new calls please


async def add(a: int, b: int) -> int:
    return a + b


async def echo(data: bytes) -> bytes:
    return data


async def fail(text: str) -> None:
    raise KeyError(text)


async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


async def blocks(number: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield bytes(size)


async def doubled(channel: Channel) -> None:
    async for number in channel:
        await channel.write(2 * number)


async def deaf(channel: Channel) -> None:
    await asyncio.Event().wait()


class Gate:
    """A handler that waits, and says how it ended."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self) -> str:
        self.entered.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "through"


FUNCTIONS = (add, echo, fail, count, blocks, doubled, deaf)


@asynccontextmanager
async def talking(
    *functions: Any,
    hello: Mapping[str, Any] = NOTHING,
    limits: Mapping[str, int] = NOTHING,
    **options: Any,
) -> AsyncIterator[tuple[Peer, Server]]:
    """Connect the independent client to a server."""
    async with serving(*(functions or FUNCTIONS), **options) as server:
        host, port = str(server.addresses[0]).removeprefix("tcp://").split(":")
        async with await Peer.connect(host, int(port), limits, **hello) as peer:
            async with asyncio.timeout(10):
                yield peer, server


async def test_both_say_hello() -> None:
    async with talking(max_streams=7) as (peer, _):
        hello = await peer.greeted()
        assert hello["rap"] == 1
        assert hello["max_streams"] == 7


async def test_a_unary_call_sent_before_the_hello_has_come() -> None:
    async with talking() as (peer, _):
        assert await peer.call("/default/add", 1, 2) == 3


async def test_arguments_by_name() -> None:
    async with talking() as (peer, _):
        call = await peer.open("/default/add", {"args": [1], "kwargs": {"b": 2}})
        assert await call.receive() == 3


@pytest.mark.parametrize(
    ("method", "arguments", "code", "details"),
    [
        ("/default/fail", ["why"], 2, {"type": "KeyError"}),
        ("/default/nope", [], 12, {}),
        ("/default/add", [1, "2"], 3, {}),
        ("/default/add", [1], 3, {}),
        ("/default/doubled", [], 3, {}),  # a channel, called like a function
    ],
)
async def test_errors(
    method: str, arguments: list[Any], code: int, details: dict[str, Any]
) -> None:
    async with talking() as (peer, _):
        with pytest.raises(Failed) as caught:
            await peer.call(method, *arguments)
        assert (caught.value.code, caught.value.details) == (code, details)
        assert await peer.call("/default/add", 1, 2) == 3


async def test_malformed_meta_and_body_fail_only_their_call() -> None:
    async with talking() as (peer, _):
        for meta, body in ((b"\xc1", b"\x90"), (msgpack.packb(["/default/add", 0]), b"\xc1")):
            call = peer.new_call()
            await peer.send_message(call, independent.OPEN, 5, meta, body)
            with pytest.raises(Failed) as caught:
                await call.receive()
            assert caught.value.code == 3
        assert await peer.call("/default/add", 1, 2) == 3


async def test_a_generator_comes_in_batches() -> None:
    async with talking() as (peer, _):
        call = await peer.open("/default/count", [100])
        assert await call.rest() == list(range(100))
        assert len(call.headers) < 100


async def test_a_channel() -> None:
    async with talking() as (peer, _):
        call = await peer.open("/default/doubled", end=False)
        for number in (1, 2, 3):
            await call.send(number)
            assert await call.receive() == 2 * number
        await call.end()
        assert await call.rest() == []


async def test_a_channel_that_the_server_ends_first() -> None:
    async def greet(channel: Channel) -> None:
        await channel.write("hello")

    async with talking(greet) as (peer, _):
        call = await peer.open("/default/greet", end=False)
        assert await call.rest() == ["hello"]
        while not call.done:  # Reset OK after its END
            await peer.read()
        assert call.failure is None


async def test_the_header_of_a_call_and_its_session() -> None:
    async def who() -> list[Any]:
        assert context.session is not None
        return [context.session.id, context.request.header["tint"]]

    async with talking(who) as (peer, _):
        header = {"session_id": "s1", "tint": "red", ":unheard-of": 1}
        assert await peer.call("/default/who", header=header) == ["s1", "red"]


async def test_a_body_larger_than_frame_and_window_both_ways() -> None:
    data = bytes(range(256)) * 4 * 300  # 300 KiB
    async with talking(stream_window=64 * KIB, max_frame=16 * KIB) as (peer, _):
        assert await peer.call("/default/echo", data) == data


async def until_stalled(peer: Peer, call: Call) -> None:
    """Read until nothing more comes on a call, while all else is answered."""
    left, quiet = -1, 0
    while quiet < 5:
        left, quiet = call.window.left, quiet + 1 if left == call.window.left else 0
        await peer.ping()


@pytest.mark.parametrize("size", [100, 5 * KIB, 20 * KIB, 100 * KIB])
async def test_a_generator_stalls_without_credit_and_goes_on_with_it(size: int) -> None:
    number = 400 * KIB // size
    async with talking() as (peer, _):
        call = await peer.open("/default/blocks", [number, size])
        await until_stalled(peer, call)
        assert not call.ended
        assert 48 * KIB <= call.held <= 64 * KIB + size + 33 * KIB  # the window and one batch
        assert await call.rest() == [bytes(size)] * number


async def test_a_stalled_stream_does_not_block_others() -> None:
    async with talking(limits={"connection_window": 128 * KIB}) as (peer, _):
        call = await peer.open("/default/blocks", [100, 5 * KIB])
        await until_stalled(peer, call)
        assert await peer.call("/default/echo", bytes(300 * KIB)) == bytes(300 * KIB)
        assert len(await call.rest()) == 100


async def test_pings_are_answered() -> None:
    async with talking() as (peer, _):
        await peer.ping(b"abcdefgh")
        assert peer.pongs == [b"abcdefgh"]


async def test_the_server_pings_when_nothing_is_heard() -> None:
    # The first look at a connection is when its handshake has to be over.
    async with talking(ping_sleep_time=0.02, handshake_timeout=0.3) as (peer, _):
        while not peer.pings:
            await peer.read()
        assert await peer.call("/default/add", 1, 2) == 3


@pytest.mark.parametrize("asks", [True, False])
async def test_a_server_tells_its_load_to_who_asks(asks: bool) -> None:
    gate = Gate()
    async with talking(gate.wait, add, hello={"load": asks}, max_pings=4) as (peer, _):
        assert (await peer.greeted())["min_ping"] == 250
        await peer.open("/default/wait", [])
        await gate.entered.wait()
        assert await peer.call("/default/add", 1, 2) == 3
        await peer.ping()
        assert bool(peer.loads) is asks  # beside the answer
        told = len(peer.loads)
        await peer.send(independent.LOAD, 0, 0, b"", b"")
        while len(peer.loads) == told:
            await peer.read()
        load = peer.loads[-1]
        assert load["in_flight"] in (1, 2)  # a count stands for 10 ms
        assert (load["draining"], load["clients"]) == (False, 1)


async def test_the_deadline_of_a_call_stops_its_handler() -> None:
    gate = Gate()
    async with talking(gate.wait) as (peer, _):
        with pytest.raises(Failed) as caught:
            await peer.call("/default/wait", timeout_ms=20)
        assert caught.value.code == 4
        await gate.cancelled.wait()


async def test_a_reset_cancels_the_handler() -> None:
    gate = Gate()
    async with talking(gate.wait, add) as (peer, _):
        call = await peer.open("/default/wait", [])
        await gate.entered.wait()
        await call.reset(1)
        await gate.cancelled.wait()
        assert await peer.call("/default/add", 1, 2) == 3


async def test_a_generator_that_is_given_up_and_what_comes_late() -> None:
    async with talking(stream_window=64 * KIB) as (peer, _):
        for _ in range(10):
            call = await peer.open("/default/blocks", [100, 8 * KIB])
            await call.receive()
            await call.reset(1)
        assert await peer.call("/default/echo", bytes(100 * KIB)) == bytes(100 * KIB)


async def test_a_drain_serves_what_arrives_and_waits_for_the_client() -> None:
    gate = Gate()
    async with talking(gate.wait, add, close_timeout=5.0) as (peer, server):
        call = await peer.open("/default/wait", [])
        await gate.entered.wait()
        closing = asyncio.create_task(server.await_closed())
        while not peer.goaways:
            await peer.read()
        assert peer.goaways == [(GOING, 0, "draining")]
        assert await peer.call("/default/add", 1, 2) == 3  # was under way, as it were
        gate.open.set()
        assert await call.receive() == "through"
        peer.close()
        await closing


async def test_a_drain_ends_with_the_last_call_that_is_served() -> None:
    gate = Gate()
    async with talking(gate.wait, close_timeout=0.05) as (peer, server):
        call = await peer.open("/default/wait", [])
        await gate.entered.wait()
        closing = asyncio.create_task(server.await_closed())
        await peer.until_closed()
        assert [last for last, *_ in peer.goaways] == [GOING, 1]
        assert call.failure is not None
        assert call.failure.code == 14
        await closing


async def test_unknown_entries_are_ignored() -> None:
    async with talking(hello={"hue": "green"}) as (peer, _):
        await peer.send(77, 255, 9, b"meta", b"body")
        await peer.greeted()
        call = peer.new_call()
        await peer.send(independent.OPEN, 0xF0, call.stream, CHANNEL, b"")
        await peer.send(independent.DATA, 1 | 0xF0, call.stream, b"", msgpack.packb(4))
        assert await call.receive() == 8
        await peer.send(independent.CREDIT, 0, 999, b"", bytes([0, 0, 0, 1]))
        await peer.send(independent.RESET, 0, 999, b"", b"")
        await peer.send(independent.RESET, 0x80, call.stream, b"", msgpack.packb([1, "", {}, 7]))
        assert await peer.call("/default/add", 1, 2) == 3


async def test_a_frame_over_max_frame_ends_the_connection_before_its_body() -> None:
    async with talking(max_frame=16 * KIB) as (peer, _):
        await peer.greeted()
        peer.write((16 * KIB + 1).to_bytes(4, "big") + bytes([0, 1, 0, 0, 0, 1, 0, 0]))
        await peer.until_closed()
        assert [(last, code) for last, code, _ in peer.goaways] == [(0, 8)]


async def test_a_message_over_max_message_resets_only_its_call() -> None:
    async with talking(max_message=64 * KIB) as (peer, _):
        with pytest.raises(Failed) as caught:
            await peer.call("/default/echo", bytes(65 * KIB))
        failed = caught.value
        assert (failed.code, failed.unserved) == (8, True)
        assert failed.details == {"limit": "max_message"}
        assert await peer.call("/default/echo", bytes(60 * KIB)) == bytes(60 * KIB)


async def test_one_call_too_many() -> None:
    gate = Gate()
    async with talking(gate.wait, add, max_streams=1) as (peer, _):
        call = await peer.open("/default/wait", [])
        with pytest.raises(Failed) as caught:
            await peer.call("/default/add", 1, 2)
        assert (caught.value.code, caught.value.unserved) == (8, True)
        gate.open.set()
        assert await call.receive() == "through"


@pytest.mark.parametrize(
    "versions",
    [{"rap": 0}, {"rap": "1"}, {"rap": None}, {"rap": True}, {"rap_max": 0}, {"rap_max": "2"}],
)
async def test_a_hello_with_something_else_than_versions_is_a_violation(
    versions: dict[str, Any],
) -> None:
    async with talking(hello=versions) as (peer, _):
        await peer.until_closed()
        assert [code for _, code, _ in peer.goaways] == [13]


async def test_a_client_of_a_later_version_is_told_that_there_is_none_in_common() -> None:
    async with talking(hello={"rap": 2, "rap_max": 3, "max_frame": 1}) as (peer, _):
        await peer.until_closed()
        (goaway,) = peer.goaways
        assert peer.version == 0
    text = (
        "no version of the wire protocol in common: the client speaks 2-3, the server 1;"
        " upgrade rap on the server"
    )
    assert goaway == (0, 9, text)


async def test_a_client_of_two_versions_uses_the_one_in_common() -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    async with talking(add, hello={"rap_max": 2}) as (peer, _):
        assert await peer.call("/default/add", 1, 2) == 3
        assert peer.version == 1


async def test_a_token() -> None:
    async with talking(verify_token="let me in", hello={"token": "let me in"}) as (peer, _):
        assert await peer.call("/default/add", 1, 2) == 3


async def test_a_wrong_token_is_refused_by_a_goaway() -> None:
    async with talking(verify_token="let me in", hello={"token": "a guess"}) as (peer, _):
        await peer.open("/default/add", [1, 2])
        while not peer.goaways:
            await peer.read()
        assert [(last, code) for last, code, _ in peer.goaways] == [(0, 16)]


VIOLATIONS = {  # frames that nobody may send, and the code they are refused with
    "an even id": [(1, 5, 2, b"", b"")],
    "id 0": [(1, 5, 0, b"", b"")],
    "an id used before": [(1, 5, 3, b"", b""), (1, 5, 1, b"", b"")],
    "a second Hello": [(6, 0, 0, b"", msgpack.packb({"rap": 1}))],
    "Data of no stream": [(0, 1, 1, b"", b"\x01")],
    "a Ping of 7 bytes": [(4, 0, 0, b"", b"1234567")],
    "a Credit of 0": [(3, 0, 0, b"", bytes(4))],
    "too much Credit": [(3, 0, 0, b"", b"\x7f\xff\xff\xff")],
    "beyond the credit": [(1, 3, 1, b"", bytes(16384))] + [(0, 3, 1, b"", bytes(16384))] * 9,
    "a message that breaks off": [
        (1, 0, 1, CHANNEL, b""),
        (0, 3, 1, b"", b""),
        (0, 0, 1, b"", b""),
    ],
    "Data after END": [(1, 4, 1, CHANNEL, b""), (0, 1, 1, b"", b"\x01")],
}


@pytest.mark.parametrize("what", VIOLATIONS)
async def test_a_violation_ends_the_connection(what: str) -> None:
    async with talking(stream_window=64 * KIB, connection_window=64 * KIB) as (peer, _):
        for frame in VIOLATIONS[what]:
            await peer.send(*frame)
        await peer.until_closed()
        assert [code for _, code, _ in peer.goaways] == [13]


class Foreign:
    """A small server of another language."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.waited: list[Call] = []  # that the client gave up
        self.peers: set[Peer] = set()

    async def answer(self, call: Call) -> None:
        """Serve one call."""
        self.peers.add(call.peer)
        match call.method:
            case "/default/add":
                await call.send(sum(await call.receive()), end=True)
            case "/default/echo":
                await call.send((await call.receive())[0], end=True)
            case "/default/count":
                (to,) = await call.receive()
                await call.send(list(range(to)), batch=True)
                await call.send(to)
                await call.end()
            case "/default/doubled":
                await call.send(2 * await call.receive())
                await call.rest()
                await call.end()
            case "/default/upload":
                arguments, *rows = await call.rest()
                await call.send(
                    [arguments, rows],
                    end=True,
                    header={"h": 1, ":trailer": {"t": len(rows)}},
                )
            case "/default/first":
                await call.receive()
                await call.send(await call.receive(), end=True)
                await call.stop()
            case "/default/echo_all":
                await call.receive()
                with suppress(StopAsyncIteration):
                    while True:
                        await call.send(await call.receive())
                await call.end({":trailer": {"t": 1}})
            case "/default/room":
                (name,) = await call.receive()
                count = len(await call.rest())
                assert call.is_done == (name == "left")
                await call.send(count, header={":result": True})
                await call.end()
            case "/default/ends":
                await call.receive()
                await call.send("last")
                await call.send(None, header={":end": True})
                await call.send(len(await call.rest()), header={":result": True})
                await call.end({":trailer": {"t": 1}})
            case "/default/later":  # a peer of later days
                await call.peer.send(99, 255, 0, b"", b"?")
                body = msgpack.packb("all the same")
                await call.peer.send(independent.DATA, 0xF5, call.stream, b"", body)
            case "/default/wait":
                self.entered.set()
                while not call.done:
                    await call.peer.read()
                self.waited.append(call)
            case _:
                await call.reset(5, "nothing of that name")


@asynccontextmanager
async def calling_foreign(**hello: Any) -> AsyncIterator[tuple[Client, Foreign]]:
    """Connect a client of rap to the independent server."""
    foreign = Foreign()
    listening = await independent.serve(foreign.answer, **hello)
    host, port = listening.sockets[0].getsockname()
    async with listening, asyncio.timeout(10), Client([f"{host}:{port}"]) as client:
        yield client, foreign


async def test_a_client_of_rap_calls_the_independent_server() -> None:
    async with calling_foreign() as (client, _):
        assert await client.raw_call("add", 1, 2) == 3
        data = bytes(300 * KIB)
        assert await client.raw_call("echo", data) == data
        with pytest.raises(NotFound, match="nothing of that name"):
            await client.raw_call("nope")


async def test_a_client_of_rap_iterates_over_the_independent_server() -> None:
    async with calling_foreign(draining=False, colour="blue") as (client, _):
        assert [item async for item in client.iterator_call("count", 5)] == [0, 1, 2, 3, 4, 5]


async def test_a_client_of_rap_opens_a_channel_to_the_independent_server() -> None:
    async with calling_foreign() as (client, _):

        @client.register(name="doubled")
        async def double(channel: Channel) -> Any:
            await channel.write(21)
            return await channel.read_body()

        call: Any = double  # the channel is made by the client
        assert await call() == 42


async def test_a_client_of_rap_sends_a_stream_of_requests_to_the_independent_server() -> None:
    async def upload(name: str, rows: AsyncIterator[int]) -> Any: ...

    async def first(rows: AsyncIterator[int]) -> Any: ...

    async def echo_all(rows: AsyncIterator[int]) -> AsyncIterator[int]:
        yield 0

    async with calling_foreign(abilities=["outcome"]) as (client, _):
        stub: Any = client.register()(upload)
        call = stub.start("all", range(1000))
        assert await call == [["all"], [*range(1000)]]
        assert (call.header, call.trailer) == ({"h": 1}, {"t": 1000})
        assert await stub("none", []) == [["none"], []]
        stub = client.register()(first)
        assert await stub(itertools.count(7)) == 7  # and is told to stop
        stub = client.register()(echo_all)
        items = stub(range(100))
        assert [item async for item in items] == [*range(100)]
        assert items.trailer == {"t": 1}


async def test_a_client_of_rap_writes_on_when_the_independent_server_has_ended_its_messages() -> (
    None
):
    async with calling_foreign(abilities=["outcome"]) as (client, _):
        async with client.channel("ends", "now") as channel:
            assert [body async for body in channel] == ["last"]
            assert channel.is_close
            for number in range(3):
                await channel.write(number)
            assert await channel.result() == 3
        assert channel.trailer == {"t": 1}


@pytest.mark.parametrize("name", ["left", "ended"])
async def test_a_client_of_rap_gets_the_result_of_a_channel(name: str) -> None:
    async with calling_foreign(abilities=["outcome"]) as (client, _):
        async with client.channel("room", name) as channel:
            for number in range(3):
                await channel.write(number)
            if name == "ended":
                assert await channel.result() == 3


@pytest.mark.parametrize("kind", ["client streaming", "bidirectional", "channel"])
async def test_a_server_without_outcomes_is_asked_for_nothing_that_it_would_misunderstand(
    kind: str,
) -> None:
    async def upload(rows: AsyncIterator[int]) -> int: ...  # type: ignore[empty-body]  # a stub

    async def echo_all(rows: AsyncIterator[int]) -> AsyncIterator[int]:
        yield 0

    async with calling_foreign() as (client, foreign):
        numbers: Any = [1]
        calls: dict[str, Callable[[], Any]] = {
            "client streaming": lambda: client.register(upload)(numbers),
            "bidirectional": lambda: anext(client.register(echo_all)(numbers)),
            "channel": lambda: client.channel("room", "left").__aenter__(),
        }
        with pytest.raises(Unimplemented, match="older release") as caught:
            await calls[kind]()
        assert not caught.value.remote
        assert not foreign.peers


async def test_a_client_of_rap_ignores_what_it_does_not_know() -> None:
    async with calling_foreign() as (client, _):
        assert await client.raw_call("later") == "all the same"
        assert await client.raw_call("add", 1, 2) == 3


async def test_a_client_of_rap_says_why_it_gives_up() -> None:
    async with calling_foreign() as (client, foreign):
        with pytest.raises(DeadlineExceeded):
            await client.raw_call("wait", timeout=0.02)
        foreign.entered.clear()
        call = asyncio.create_task(client.raw_call("wait"))
        await foreign.entered.wait()
        call.cancel()
        await asyncio.wait([call])
        assert await client.raw_call("add", 1, 2) == 3
        late, given_up = foreign.waited
        assert 0 < late.timeout_ms <= 20
        assert [call.failure and call.failure.code for call in (late, given_up)] == [4, 1]


async def test_a_client_of_rap_leaves_a_server_that_drains() -> None:
    async with calling_foreign() as (client, foreign):
        assert await client.raw_call("add", 1, 2) == 3
        (peer,) = foreign.peers
        await peer.send(independent.GOAWAY, 0, GOING, b"", msgpack.packb([0, "draining"]))
        await eventually(lambda: peer.closed)
        assert await client.raw_call("add", 1, 2) == 3  # over another connection
        assert len(foreign.peers) == 2


async def test_a_client_of_rap_goes_by_what_it_sees_where_no_server_tells_its_load() -> None:
    """So it is with servers from before there were reports, for which a Load is an unknown kind."""
    foreign = Foreign()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(10))
        hosts = []
        for _ in range(2):
            listening = await stack.enter_async_context(await independent.serve(foreign.answer))
            hosts.append(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        client = await stack.enter_async_context(Client(hosts, picker="prequal"))
        while len(foreign.peers) < 2 or not all(peer.asked for peer in foreign.peers):
            assert await client.raw_call("add", 1, 2) == 3
        assert all(peer.hello["load"] is True for peer in foreign.peers)
        assert all(node.report is None for node in client.cluster.nodes.values())
