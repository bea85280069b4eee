import asyncio
import gc
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rap.client import SyncClient
from rap.errors import (
    CallError,
    DeadlineExceeded,
    InvalidArgument,
    RegistrationError,
    Unavailable,
    Unimplemented,
)
from rap.server import Server, context
from tests.client.threaded import calling, joined, serving
from tests.loopback import PATIENCE


def add(a: int, b: int = 10) -> int:
    return a + b


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def divide(a: int, b: int) -> int:
    return a // b


async def session_id() -> str | None:
    return context.session.id if context.session else None


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(add, count, divide, session_id) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[SyncClient]:
    with calling(server) as client:
        yield client


def test_a_function_is_called_by_name_or_by_declaration(client: SyncClient) -> None:
    assert client.raw_call("add", 1, 2) == 3
    assert client.raw_call("add", arg_param=[1], kwarg_param={"b": 3}) == 4
    assert client.raw_call("add", 1, b=4) == 5
    assert client.call(add, 1, 5) == 6


def test_a_plain_declaration_becomes_a_plain_function(client: SyncClient) -> None:
    @client.register("add")
    def remote(a: int, b: int = 10) -> int:
        """Add."""
        raise AssertionError

    assert remote(1) == 11
    assert remote(1, b=2) == 3
    assert remote.__doc__ == "Add."


def test_an_async_declaration_becomes_a_plain_function(client: SyncClient) -> None:
    @client.register("add")
    async def remote(a: int, b: int) -> int:
        raise AssertionError

    assert remote(1, 2) == 3


def test_arguments_are_checked_before_sending(client: SyncClient) -> None:
    remote: Any = client.register()(add)
    with pytest.raises(InvalidArgument, match="'a'"):
        remote("one")


def test_a_declaration_without_hints_is_refused(client: SyncClient) -> None:
    with pytest.raises(RegistrationError, match="parameter 'a' has no type hint"):
        client.register()(lambda a: a)
    options: Any = {"timeout": 3}
    with pytest.raises(TypeError, match=r"options first, .* @client\.register\(group=\.\.\.\)"):
        client.register(add, **options)


def test_a_stub_needs_no_parentheses_without_options(client: SyncClient) -> None:
    assert client.register(add)(1, 2) == 3


def test_an_error_of_a_server_has_its_type(client: SyncClient) -> None:
    with pytest.raises(ZeroDivisionError):
        client.call(divide, 1, 0)
    with pytest.raises(Unimplemented):
        client.raw_call("nothing")


def test_options_of_a_call_reach_it(client: SyncClient) -> None:
    remote: Any = client.register()(add)
    assert remote(1, 2, header={"a": 1}, timeout=5.0, affinity="key") == 3
    with pytest.raises(InvalidArgument, match="header"):
        remote(1, 2, header={":a": 1})


def test_a_deadline_ends_the_wait() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with serving(forever) as server, calling(server) as client:
        with pytest.raises(DeadlineExceeded):
            client.raw_call("forever", timeout=0.05)


def test_a_generator_is_a_plain_iterator(client: SyncClient) -> None:
    @client.register("count")
    def plain(n: int) -> Iterator[int]:
        raise AssertionError

    @client.register("count")
    async def declared(n: int) -> AsyncIterator[int]:
        yield 0

    assert list(plain(1000)) == list(range(1000))
    assert list(declared(3)) == [0, 1, 2]
    assert list(client.iterator_call(count, 3)) == [0, 1, 2]
    assert list(client.iterator_call("count", 0)) == []


def test_breaking_out_ends_the_remote_generator() -> None:
    ended = threading.Event()

    async def forever() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    with serving(forever) as server, calling(server) as client:
        for item in client.iterator_call(forever):
            assert item == 1
            break
        gc.collect()
        assert ended.wait(PATIENCE)


def test_closing_an_iterator_ends_the_remote_generator() -> None:
    ended = threading.Event()

    async def forever() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    with serving(forever) as server, calling(server) as client:
        with client.iterator_call(forever) as items:
            assert next(items) == 1
        assert ended.wait(PATIENCE)
        assert list(items) == []


def test_an_error_after_items_comes_after_them(server: Server) -> None:
    async def some() -> AsyncIterator[int]:
        yield 1
        raise ValueError("enough")

    server.register(some)
    with calling(server) as client:
        items = client.iterator_call(some)
        assert next(items) == 1
        with pytest.raises(ValueError, match="enough"):
            next(items)


def test_calls_in_a_session_carry_its_id(client: SyncClient) -> None:
    remote: Any = client.register()(session_id)
    with client.session as session:
        assert session.in_session
        assert session.conn is not None
        assert not session.draining
        assert remote() == session.id
        assert client.raw_call("session_id") == session.id
        assert session.execute("session_id") == session.id
    assert not session.in_session
    assert remote() is None


def test_a_thread_is_given_the_session_explicitly(client: SyncClient) -> None:
    remote: Any = client.register()(session_id)
    with client.session as session, ThreadPoolExecutor(1) as pool:
        assert pool.submit(remote).result() is None
        assert pool.submit(remote, session=session).result() == session.id
        named = pool.submit(client.raw_call, "session_id", session=session)
        assert named.result() == session.id


def test_a_session_executes_functions_and_names_by_shape(client: SyncClient) -> None:
    with client.session as session:
        assert session.execute(add, [1, 2]) == 3
        assert session.execute("add", [1], {"b": 2}) == 3
        assert session.execute(client.register()(add), kwarg_dict={"a": 1}) == 11
        assert list(session.execute(count, [3])) == [0, 1, 2]
        with pytest.raises(TypeError, match="a function or a name"):
            session.execute(3)  # type: ignore[call-overload]  # that is the mistake


def test_a_call_in_a_session_that_was_left_fails(client: SyncClient) -> None:
    with client.session as session:
        pass
    with pytest.raises(CallError, match="left already"):
        client.raw_call("session_id", session=session)


class Numbers:
    def add(self, a: int, b: int) -> int:
        raise AssertionError

    async def divide(self, a: int, b: int) -> int:
        raise AssertionError


def test_an_interface_is_bound_as_plain_methods(client: SyncClient) -> None:
    numbers: Any = client.bind(Numbers, group="default")
    assert numbers.add(1, 2) == 3
    assert numbers.divide(7, 2) == 3


def test_many_threads_call_at_once(client: SyncClient) -> None:
    remote: Any = client.register()(add)
    with ThreadPoolExecutor(16) as pool:
        sums = list(pool.map(lambda i: remote(i, i), range(400)))
    assert sums == [2 * i for i in range(400)]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt: a shell starts what runs in its background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_the_wait_cancels_the_call() -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def forever() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def interrupt() -> None:
        started.wait(PATIENCE)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with serving(forever, add) as server, calling(server) as client:
        with joined(interrupt), pytest.raises(KeyboardInterrupt):
            client.raw_call("forever")
        assert cancelled.wait(PATIENCE)
        assert client.raw_call("add", 1) == 11


def test_a_call_keeps_to_the_deadline_of_the_handler_that_makes_it(server: Server) -> None:
    inner: list[BaseException] = []
    ended = threading.Event()

    async def forever() -> None:
        await asyncio.Event().wait()

    def relay() -> None:
        try:
            caller.raw_call("forever")
        except DeadlineExceeded as error:
            inner.append(error)
            raise
        finally:
            ended.set()

    server.register(forever)
    server.register(relay)
    with calling(server, timeout=None) as caller:
        with pytest.raises(DeadlineExceeded):
            caller.raw_call("relay", timeout=0.5)
        assert ended.wait(PATIENCE)
    assert len(inner) == 1


def test_the_first_call_connects_and_a_closed_client_may_be_connected_again(
    server: Server,
) -> None:
    client = SyncClient([str(each) for each in server.addresses])
    for _ in range(2):
        assert client.raw_call("add", 1) == 11
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match=r"was closed; connect\(\) it"):
            client.raw_call("add", 1)
        client.connect()
    client.close()


def test_no_server_is_said_by_name() -> None:
    client = SyncClient("127.0.0.1:1", connect_timeout=0.05)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        client.__enter__()


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ValueError, match="max_connections"):
        SyncClient(max_connections=0)
    with pytest.raises(TypeError, match="colour"):
        SyncClient(colour="red")  # type: ignore[call-arg]  # that is the mistake


def test_closing_fails_the_calls_that_are_open() -> None:
    started = threading.Event()
    errors: list[BaseException] = []

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    with serving(forever) as server, calling(server) as client:

        def call() -> None:
            try:
                client.raw_call("forever")
            except CallError as error:
                errors.append(error)

        with joined(call):
            assert started.wait(PATIENCE)
            client.close()
    assert [type(error) for error in errors] == [Unavailable]


def test_a_client_that_is_dropped_leaves_no_thread(server: Server) -> None:
    client: SyncClient | None = SyncClient([str(each) for each in server.addresses])
    assert client is not None
    client.connect()
    thread = client.live[1]
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    with pytest.raises(Unavailable, match="closed"):
        thread.run(asyncio.sleep(0))


def test_an_iterator_keeps_its_client_alive(server: Server) -> None:
    def items() -> Iterator[int]:
        client = SyncClient([str(each) for each in server.addresses])
        client.connect()
        return client.iterator_call(count, 3)

    found = items()
    gc.collect()
    assert list(found) == [0, 1, 2]


def test_a_blocking_call_in_the_thread_of_the_client_is_refused(client: SyncClient) -> None:
    async def call() -> None:
        client.raw_call("add", 1)

    with pytest.raises(RuntimeError, match="wait for itself"):
        client.run(call())


def test_processors_and_exceptions_are_loaded(server: Server) -> None:
    class Refused(Exception):
        pass

    def refuse() -> None:
        raise Refused("no")

    server.register(refuse)
    client = SyncClient([str(each) for each in server.addresses])
    client.load_exception([Refused])
    client.load_processor([])
    with client, pytest.raises(Refused, match="no"):
        client.raw_call("refuse")
