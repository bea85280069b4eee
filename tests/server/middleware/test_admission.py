"""Connection middleware: a connection waits unread until it is admitted."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rap.client import Client
from rap.errors import Code, RegistrationError, Unavailable
from rap.server import Server
from rap.server.middleware import AccessMsgMiddleware, BaseConnMiddleware, BaseMsgMiddleware
from rap.transport import Connection
from tests.fake_clock import FakeClock
from tests.loopback import LOOPBACK, calling, eventually, serving, within
from tests.server.middleware.refusals import is_refused
from tests.transport.certificates import Certificates

ON_BOTH_LOOPS = True


async def add(a: int, b: int) -> int:
    return a + b


class Gate(BaseConnMiddleware):
    """Admits connections once it is opened, and counts them."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.asked: list[Connection] = []
        self.left = 0

    async def dispatch(self, conn: Connection) -> None:
        self.asked.append(conn)
        await self.opened.wait()
        try:
            await self.call_next(conn)
        finally:
            self.left += 1


Options = dict[str, Any]


@pytest.fixture(params=["tcp", "unix", "tls"])
def ends(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates
) -> tuple[Options, Options]:
    """Options of the server and of the client, for each transport."""
    if request.param == "unix":
        return {"host": f"unix://{tmp_path}/s"}, {}
    if request.param == "tcp":
        return {"host": LOOPBACK}, {}
    own = certificates.server
    files = {"ssl_crt_path": own.crt_path, "ssl_key_path": own.key_path}
    return {"host": LOOPBACK, **files}, {"ssl_crt_path": own.crt_path}


async def test_nothing_is_read_or_sent_before_a_connection_is_admitted(
    ends: tuple[Options, Options],
) -> None:
    gate = Gate()
    async with serving(add, middleware_list=[gate], **ends[0]) as server:
        client = Client(server.addresses, **ends[1])
        connecting = asyncio.ensure_future(client.connect())
        await eventually(lambda: gate.asked)
        conn = gate.asked[0]
        assert not conn.handshake.done()
        assert conn.gate is not None
        assert not connecting.done()
        gate.opened.set()
        await within(connecting)
        assert await client.call(add, 1, 2) == 3
        assert gate.left == 0
        await client.await_close()
        await eventually(lambda: gate.left)


async def test_call_next_returns_when_a_connection_was_lost_before_it_was_admitted() -> None:
    gate = Gate()
    async with serving(add, middleware_list=[gate]) as server:
        client = Client(server.addresses, connect_timeout=5)
        connecting = asyncio.ensure_future(client.connect())
        await eventually(lambda: gate.asked)
        connecting.cancel()
        await client.await_close()
        gate.opened.set()
        await eventually(lambda: gate.left == len(gate.asked))


class Closing(BaseConnMiddleware):
    def __init__(self) -> None:
        self.asked = 0

    async def dispatch(self, conn: Connection) -> None:
        self.asked += 1
        await conn.close()


class Refusing(Closing):
    async def dispatch(self, conn: Connection) -> None:
        self.asked += 1
        await self.refuse(conn, "come back on Monday", Code.PERMISSION_DENIED)


class Ignoring(Closing):
    async def dispatch(self, conn: Connection) -> None:
        self.asked += 1


class Failing(Closing):
    async def dispatch(self, conn: Connection) -> None:
        self.asked += 1
        raise LookupError("no such friend")


@pytest.mark.parametrize("kind", [Closing, Refusing, Ignoring, Failing])
async def test_a_connection_that_is_not_admitted_is_closed(
    kind: type[Closing], ends: tuple[Options, Options], clock: FakeClock
) -> None:
    middleware = kind()
    async with serving(add, middleware_list=[middleware], **ends[0]) as server:
        client = Client(server.addresses, connect_timeout=0.5, clock=clock, **ends[1])
        connecting = asyncio.ensure_future(client.connect())
        await eventually(lambda: middleware.asked)
        clock.advance(0.5)
        with pytest.raises(Unavailable):
            await within(connecting)
        await client.await_close()
        assert middleware.asked <= 2  # the client waits before it dials again
        await eventually(lambda: not server.connection_manager.connections)


async def test_a_client_that_is_refused_learns_why(ends: tuple[Options, Options]) -> None:
    async with serving(add, middleware_list=[Refusing()], **ends[0]) as server:
        assert await is_refused(server, "come back on Monday", **ends[1])


async def test_a_failure_of_middleware_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(add, middleware_list=[Failing()]) as server:
        client = Client(server.addresses, connect_timeout=0.2)
        with pytest.raises(Unavailable):
            await within(client.connect())
        await client.await_close()
        await eventually(lambda: caplog.text)
    assert "middleware failed on the connection with 127.0.0.1:" in caplog.text
    assert "no such friend" in caplog.text


async def test_the_first_middleware_is_outermost() -> None:
    order: list[str] = []

    class Named(BaseConnMiddleware):
        def __init__(self, name: str) -> None:
            self.name = name

        async def dispatch(self, conn: Connection) -> None:
            order.append(f"{self.name} in")
            await self.call_next(conn)
            order.append(f"{self.name} out")

    async with serving(add, middleware_list=[Named("a"), Named("b")]) as server:
        async with calling(server) as client:
            assert await client.call(add, 1, 2) == 3
        await eventually(lambda: len(order) == 4)
    assert order == ["a in", "b in", "b out", "a out"]


async def test_a_server_closes_with_a_connection_that_waits_for_its_admission() -> None:
    gate = Gate()
    async with serving(add, middleware_list=[gate], close_timeout=0.05) as server:
        client = Client(server.addresses, connect_timeout=5)
        connecting = asyncio.ensure_future(client.connect())
        await eventually(lambda: gate.asked)
        asyncio.get_running_loop().call_later(0.1, gate.opened.set)
        await within(server.await_closed())
        connecting.cancel()
        await client.await_close()
    assert gate.left == 1


async def test_middleware_that_never_ends_is_cancelled_when_the_server_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rap.server.admission._CLOSE_TIMEOUT", 0.05)
    gate = Gate()
    async with serving(add, middleware_list=[gate], close_timeout=0.05) as server:
        client = Client(server.addresses, connect_timeout=5)
        connecting = asyncio.ensure_future(client.connect())
        await eventually(lambda: gate.asked)
        await within(server.await_closed())
        connecting.cancel()
        await client.await_close()
    assert gate.left == 0


async def test_without_connection_middleware_a_connection_has_no_task() -> None:
    async with serving(add, middleware_list=[AccessMsgMiddleware()]) as server:
        async with calling(server) as client:
            assert await client.call(add, 1, 2) == 3
            names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith("rap connection")]


# Loading, and the life of middleware.


@pytest.mark.parametrize("bad", [1, "x", BaseConnMiddleware, None])
async def test_only_middleware_is_loaded(bad: Any) -> None:
    with pytest.raises(TypeError, match="load_middleware takes objects of BaseConnMiddleware"):
        Server(LOOPBACK).load_middleware([bad])
    with pytest.raises(TypeError, match="middleware_list takes objects of BaseConnMiddleware"):
        Server(LOOPBACK, middleware_list=[bad])


@pytest.mark.parametrize("kind", [BaseConnMiddleware, BaseMsgMiddleware])
async def test_an_instance_can_be_loaded_only_once(kind: Any) -> None:
    one = kind()
    with pytest.raises(ValueError, match="is loaded already"):
        Server(LOOPBACK).load_middleware([one, one])
    with pytest.raises(ValueError, match="is loaded already"):
        Server(LOOPBACK).load_middleware([one])


async def test_middleware_cannot_be_loaded_into_a_running_server() -> None:
    async with serving(add) as server:
        with pytest.raises(RuntimeError, match="before the server starts"):
            server.load_middleware([BaseConnMiddleware()])


class Living(BaseMsgMiddleware):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def start_event_handle(self) -> None:
        self.log.append(f"start {self.name}")

    async def stop_event_handle(self) -> None:
        self.log.append(f"stop {self.name}")


class AsyncLiving(Living):
    async def start_event_handle(self) -> None:  # type: ignore[override]  # may be async
        super().start_event_handle()

    def stop_event_handle(self) -> None:  # type: ignore[override]  # may be plain
        self.log.append(f"stop {self.name}")


async def test_start_and_stop_events_run_plain_or_async() -> None:
    log: list[str] = []
    async with serving(add, middleware_list=[Living("a", log), AsyncLiving("b", log)]):
        assert log == ["start a", "start b"]
    assert log[2:] == ["stop b", "stop a"]


async def test_started_middleware_is_stopped_when_the_start_fails() -> None:
    class Broken(Living):
        def start_event_handle(self) -> None:
            raise LookupError("no")

    log: list[str] = []
    chain = [Living("a", log), Broken("b", log), Living("c", log)]
    with pytest.raises(LookupError, match="no"):
        await Server(LOOPBACK, middleware_list=chain).create_server()
    assert log == ["start a", "stop b", "stop a"]


async def test_a_failing_stop_event_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Living):
        async def stop_event_handle(self) -> None:
            raise LookupError("not now")

    log: list[str] = []
    async with serving(add, middleware_list=[Living("a", log), Broken("b", log)]):
        pass
    assert log[-1] == "stop a"
    assert "not now" in caplog.text


class Registering(BaseConnMiddleware):
    def __init__(self) -> None:
        self.register(self.one)
        self.register(self.one, "uno", "numbers")

    def start_event_handle(self) -> None:
        self.register(self.two)

    def one(self) -> int:
        return 1

    async def two(self) -> int:
        return 2


async def test_private_functions_have_the_class_as_their_group() -> None:
    async with serving(add, middleware_list=[Registering()]) as server:
        assert all(it.is_private for it in server.handlers if it.group == "Registering")
        async with calling(server) as client:
            assert await client.raw_call("one", group="Registering") == 1
            assert await client.raw_call("two", group="Registering") == 2
            assert await client.raw_call("uno", group="numbers") == 1


async def test_two_of_one_class_with_private_functions_are_refused() -> None:
    with pytest.raises(RegistrationError, match="'one' is registered already"):
        Server(LOOPBACK, middleware_list=[Registering(), Registering()])
