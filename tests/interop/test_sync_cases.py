"""gRPC's interop cases with `SyncClient`; `test_cases` says what each of them is.

The cases that cancel are those of an iterator or channel that is left, because a blocking call has
nothing that its own thread could cancel.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rap.client import SyncClient
from rap.errors import CallError, Code, DeadlineExceeded, Unimplemented
from rap.server import Server
from tests.client.threaded import calling, serving
from tests.interop.service import GROUP, Log, Order, Service, Status
from tests.interop.test_cases import (
    INITIAL,
    LARGE,
    METADATA,
    REQUEST_SIZES,
    RESPONSE_SIZES,
    SPECIAL,
    TRAILING,
)
from tests.loopback import PATIENCE


@pytest.fixture
def server(way: dict[str, dict[str, Any]]) -> Iterator[Server]:
    with serving(**way["server"]) as server:
        server.register(Service(Log()))
        yield server


@pytest.fixture
def client(server: Server, way: dict[str, dict[str, Any]]) -> Iterator[SyncClient]:
    with calling(server, **way["client"]) as client:
        yield client


@pytest.fixture
def stub(client: SyncClient) -> Any:
    return client.bind(Service)


def sizes(payloads: Any) -> list[int]:
    return [len(payload) for payload in payloads]


# empty_unary, large_unary
def test_an_empty_and_a_large_call_return(stub: Any) -> None:
    assert stub.empty() is None
    assert stub.unary(Order([LARGE + 1], bytes(LARGE))) == bytes(LARGE + 1)


# client_streaming, server_streaming
def test_a_stream_of_either_side_arrives_whole(stub: Any) -> None:
    assert stub.collect(bytes(size) for size in REQUEST_SIZES) == sum(REQUEST_SIZES)
    assert stub.collect(iter([])) == 0
    assert sizes(stub.produce(Order(RESPONSE_SIZES))) == RESPONSE_SIZES


# ping_pong
def test_messages_alternate_and_a_side_that_has_ended_reads_on(
    client: SyncClient, stub: Any
) -> None:
    with client.channel("talk", group=GROUP) as channel:
        for size in RESPONSE_SIZES:
            channel.write(Order([size]))
            assert len(channel.read_body()) == size
        channel.write(Order([5]))
        channel.end()
        assert sizes(channel) == [5]
        assert channel.result() == len(RESPONSE_SIZES) + 1
    orders = [Order([size]) for size in RESPONSE_SIZES]
    assert sizes(stub.converse_later(orders)) == RESPONSE_SIZES


# empty_stream
def test_an_empty_conversation_ends_well(client: SyncClient, stub: Any) -> None:
    assert list(stub.converse([])) == []
    with client.channel("talk", group=GROUP) as channel:
        assert channel.result() == 0


# custom_metadata
def test_metadata_goes_both_ways(client: SyncClient, stub: Any) -> None:
    expected = ({"x-initial": INITIAL}, {"x-trailing": TRAILING})
    call = stub.unary.start(Order([1]), header=METADATA)
    call.result()
    assert (call.header, call.trailer) == expected
    call = stub.collect.start([b"x"], header=METADATA)
    assert call.result() == 1
    assert (call.header, call.trailer) == expected
    for responses in (
        stub.produce(Order([1, 2]), header=METADATA),
        stub.converse([Order([1, 2])], header=METADATA),
    ):
        assert sizes(responses) == [1, 2]
        assert (responses.header, responses.trailer) == expected
    with client.channel("talk", group=GROUP, header=METADATA) as channel:
        channel.write(Order([1]))
        channel.result()
    assert (channel.header, channel.trailer) == expected


# status_code_and_message, special_status_message
@pytest.mark.parametrize("message", ["test status message", SPECIAL])
def test_code_and_message_of_a_status_arrive(client: SyncClient, stub: Any, message: str) -> None:
    def said() -> None:
        with client.channel("talk", group=GROUP) as channel:
            channel.write(order)

    order = Order(status=Status(Code.ABORTED, message))
    calls: list[Callable[[], Any]] = [
        lambda: stub.unary(order),
        lambda: list(stub.produce(order)),
        lambda: list(stub.converse([order])),
        said,
    ]
    for call in calls:
        with pytest.raises(CallError) as caught:
            call()
        assert (caught.value.code, caught.value.message) == (Code.ABORTED, message)


# unimplemented_method, unimplemented_service
@pytest.mark.parametrize("group", [GROUP, "NoService"])
def test_a_function_or_group_that_does_not_exist_is_unimplemented(
    client: SyncClient, group: str
) -> None:
    with pytest.raises(Unimplemented, match="unknown"):
        client.raw_call("unknown", group=group)
    with pytest.raises(Unimplemented, match="unknown"):
        list(client.iterator_call("unknown", group=group))
    with pytest.raises(Unimplemented, match="unknown"), client.channel("unknown", group=group):
        pass


# cancel_after_first_response
def test_a_call_is_left_after_its_first_response(client: SyncClient, stub: Any) -> None:
    closed = threading.Event()

    def orders() -> Iterator[Order]:
        try:
            while True:
                yield Order([1])
        finally:
            closed.set()

    def leave() -> None:
        with client.channel("talk", group=GROUP) as channel:
            channel.write(Order([1]))
            channel.read_body()
            raise KeyError("leave")

    responses = stub.converse(orders())
    assert len(next(responses)) == 1
    responses.close()
    assert closed.wait(PATIENCE)
    with pytest.raises(KeyError, match="leave"):
        leave()


# timeout_on_sleeping_server
def test_a_deadline_passes_while_the_server_sleeps(client: SyncClient, stub: Any) -> None:
    with pytest.raises(DeadlineExceeded):
        stub.sleep(timeout=0.05)
    with (
        pytest.raises(DeadlineExceeded),
        client.channel("talk", group=GROUP, timeout=0.05) as channel,
    ):
        channel.read_body()


# concurrent_large_unary, soak
def test_many_threads_make_large_calls_and_streams(stub: Any) -> None:
    def once(n: int) -> list[int]:
        large = len(stub.unary(Order([314_159 + n], bytes(271_828))))
        return [large, stub.collect([bytes(n), b"x"]), *sizes(stub.converse([Order([n])]))]

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(once, range(40))] == [[314_159 + n, n + 1, n] for n in range(40)]
