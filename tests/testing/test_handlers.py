"""handler_call(): unit tests of handlers that read and set `rap.context`."""

import pytest

from rap import context
from rap.call import running_call
from rap.server import Server
from rap.testing import FakeClock, TestClient, handler_call


async def greet(name: str) -> str:
    peer = context.call.peer
    assert peer is not None
    context.set_header("greeted", name)
    context.set_trailer("by", peer.identity)
    return f"{context.request.header['language']}: {name}"


async def test_a_handler_sees_the_call_that_the_test_describes() -> None:
    with handler_call("greet", ["Ada"], header={"language": "en"}, identity="alice") as call:
        assert await greet("Ada") == "en: Ada"
        assert context.request.body == ["Ada"]
        assert context.call.method == "/default/greet"
    assert call.response_header == {"greeted": "Ada"}
    assert call.response_trailer == {"by": "alice"}


def test_session_priority_and_peer_are_those_of_the_test() -> None:
    with handler_call(session_id="s1", priority="critical", client_host="203.0.113.9"):
        assert context.session is not None
        assert context.session.id == "s1"
        assert context.priority == "critical"
        assert context.call.peer is not None
        assert (context.call.peer.host, context.call.peer.is_local) == ("203.0.113.9", False)


def test_there_is_no_call_before_and_after_the_block() -> None:
    with handler_call() as call:
        assert running_call() == call
    assert running_call() is None
    with pytest.raises(RuntimeError, match="only while a handler runs"):
        _ = context.call


def test_values_of_the_response_are_checked_as_on_a_server() -> None:
    with handler_call():
        with pytest.raises(ValueError, match=":secret"):
            context.set_header(":secret", 1)
        with pytest.raises(ValueError, match="object"):
            context.set_trailer("value", object())


async def test_calls_of_the_handler_inherit_its_deadline() -> None:
    clock, left = FakeClock(), []
    inner = Server()

    @inner.register
    async def measure() -> None:
        left.append(context.call.deadline - clock.monotonic())

    async with TestClient(inner, clock=clock) as client:
        with handler_call(timeout=2, clock=clock):
            await client.raw_call("measure")
    assert left == [pytest.approx(1.95, abs=0.01)]


def test_an_unknown_priority_is_refused() -> None:
    with pytest.raises(ValueError, match="priority must be one of"):
        with handler_call(priority="urgent"):
            pass


async def test_a_test_may_let_the_server_drain() -> None:
    with handler_call() as call:
        assert not context.draining
        call.draining = True
        assert context.draining
