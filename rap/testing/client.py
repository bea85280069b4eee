"""A client that is connected to a server inside the process."""

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

from rap.address import Address
from rap.client.client import Client
from rap.client.sync.client import SyncClient
from rap.client.sync.loop_thread import LoopThread
from rap.clock import Clock
from rap.server.server import Server
from rap.transport.inproc import link_of, new_address

__all__ = ["TestClient"]


class TestClient:
    """Runs a server inside the process, and connects a client to it; there is no socket.

    ``async with TestClient(server) as client`` gives a `Client` and runs the server in the same
    event loop. ``with TestClient(server) as client`` gives a `SyncClient` and runs the server in a
    thread. Both are those of production: all calls, processors, middleware, deadlines and errors
    work as over TCP. The server is started and stopped with its events. Messages name it by its
    service, such as ``inproc://shop``. It has its registry and
    its addresses again afterwards, so that a server of a module may be used in any number of tests.

    Args:
        server: The server, or a function that makes it. It must not be running.
        client: The client to connect, such as one of a module whose stubs the test calls; it must
            not be connected. By default a new one.
        clock: Source of time of both, such as a `FakeClock`. `None`: that of each.
        client_host: IP address that the server sees as that of the client. With one that is not a
            loopback address, private functions are hidden.
        options: Options of the client, such as `token` or `timeout`.
    """

    __test__ = False  # for pytest: this class has no tests

    def __init__(
        self,
        server: Server | Callable[[], Server],
        *,
        client: Client | SyncClient | None = None,
        clock: Clock | None = None,
        client_host: str = "127.0.0.1",
        **options: Any,
    ) -> None:
        if not callable(server) and not isinstance(server, Server):
            text = f"TestClient takes a Server, or a function that makes one, got {server!r}"
            raise TypeError(text)
        self._server = server
        self._client = client
        self._clocks: dict[str, Any] = {} if clock is None else {"clock": clock}
        self._client_host = client_host
        self._options = options
        self._stack = ExitStack()
        self._async_stack = AsyncExitStack()

    async def __aenter__(self) -> Client:
        if isinstance(self._client, SyncClient):
            raise TypeError("a SyncClient is entered by `with`, not by `async with`")
        async with AsyncExitStack() as stack:
            server, address = stack.enter_context(self._overridden_server())
            await stack.enter_async_context(server)
            client = self._client
            if client is None:
                client = Client(address, **self._clocks, **self._options)
            else:
                stack.enter_context(client.overridden(**self._target(address)))
            await stack.enter_async_context(client)
            self._async_stack = stack.pop_all()
        return client

    async def __aexit__(self, *exc: object) -> None:
        await self._async_stack.aclose()

    def __enter__(self) -> SyncClient:
        if isinstance(self._client, Client):
            raise TypeError("a Client is entered by `async with`, not by `with`")
        with ExitStack() as stack:
            server, address = stack.enter_context(self._overridden_server())
            thread = LoopThread("rap test server")
            stack.callback(lambda: thread.close(server.close()))
            thread.run(server.create_server())
            client = self._client
            if client is None:
                client = SyncClient(address, **self._clocks, **self._options)
            else:
                stack.enter_context(client.overridden(**self._target(address)))
            stack.enter_context(client)
            self._stack = stack.pop_all()
        return client

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @contextmanager
    def _overridden_server(self) -> Iterator[tuple[Server, Address]]:
        """Yield the server, which has the options of the test, and its address."""
        server = self._server if isinstance(self._server, Server) else self._server()
        address = new_address(server.config.service or "server")
        self._link = link_of(address)  # it lives as long as this
        self._link.set_client_host(self._client_host)
        with server.overridden(host=address, registry=None, drain_delay=0, **self._clocks):
            yield server, address

    def _target(self, address: Address) -> dict[str, Any]:
        """Return the options that lead a client to the server."""
        places = {"host_list": address, "service": None, "registry": None}
        return {**places, **self._clocks, **self._options}
