"""Several replicas of a server inside the process, and what can happen to them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from math import inf
from string import ascii_lowercase
from typing import Any, Self

from rap.address import Address
from rap.call import Call, split_method
from rap.client.client import Client
from rap.clock import Clock
from rap.errors import CallError
from rap.processor.base import BaseProcessor
from rap.registry.base import Endpoint, LoadReport, Snapshot
from rap.registry.memory import MemoryRegistry
from rap.server.server import Server
from rap.transport.inproc import Link, link_of, new_address

__all__ = ["Fleet", "Replica"]


class Fleet:
    """Runs replicas of a server inside the process, and a client that balances between them.

    Use it as ``async with Fleet(server, 3) as fleet``. ``fleet.client`` finds the replicas in a
    registry, as in production. ``fleet["a"]`` is a replica, which the test can kill, freeze, delay,
    or let fail. Messages name it by its service and its name, such as ``inproc://shop/a``.

    Args:
        server: The server, or a function that makes one for each replica. Replicas of one server
            share its functions, processors and middleware; give a function if these keep state that
            each process has for itself.
        replicas: How many, or their names. By default, the names are ``a``, ``b`` and so on.
        client: The client to connect, such as one of a module. By default a new one.
        clock: Source of time of all of them, such as a `FakeClock`. `None`: that of the machine.
        service: Name of the service. `None`: the name that the server has, or ``fleet``.
        options: Options of the client.

    Attributes:
        registry: Where the replicas register; other clients of the test may use it.
        service: The name of the service.

    Raises:
        ValueError: There is no replica, or two have the same name.
    """

    def __init__(
        self,
        server: Server | Callable[[], Server],
        replicas: int | Sequence[str] = 3,
        *,
        client: Client | None = None,
        clock: Clock | None = None,
        service: str | None = None,
        **options: Any,
    ) -> None:
        names = _names(replicas) if isinstance(replicas, int) else list(replicas)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"replicas must be a number or different names, got {replicas!r}")
        make = server.replica if isinstance(server, Server) else server
        servers = [make() for _ in names]
        self.service = service or servers[0].config.service or "fleet"
        self.registry = MemoryRegistry(clock=clock)
        self._clocks: dict[str, Any] = {} if clock is None else {"clock": clock}
        self._client = client
        self._options = options
        self._stack = AsyncExitStack()
        self._replicas = {
            name: Replica(name, each, self.registry, self.service, clock)
            for name, each in zip(names, servers, strict=True)
        }

    def __getitem__(self, name: str) -> "Replica":
        """Return a replica.

        Raises:
            KeyError: There is none of this name; the error lists the names.
        """
        if name not in self._replicas:
            raise KeyError(f"no replica {name!r}; there are {', '.join(self._replicas)}")
        return self._replicas[name]

    def __iter__(self) -> "Iterator[Replica]":
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            RuntimeError: The fleet is not running.
        """
        if self._client is None:
            raise RuntimeError("the fleet has a client in its `async with` block")
        return self._client

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for replica in self:
                await stack.enter_async_context(replica)
            place = {"service": self.service, "registry": self.registry, **self._clocks}
            if self._client is None:
                self._client = Client(**place, **self._options)
            else:
                options = {"host_list": None, **place, **self._options}
                stack.enter_context(self._client.overridden(**options))
            await stack.enter_async_context(self._client)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for replica in self:
            replica.thaw()  # or the client would wait for its last words
        await self._stack.aclose()


class Replica:
    """One replica of a fleet.

    Args:
        name: Its name.
        server: Its server.
        registry: Where it registers.
        service: Name of its service.
        clock: Source of time; `None`: that of the machine.

    Attributes:
        name: See above.
        server: See above.
        address: Where it listens, inside the process.
    """

    def __init__(
        self,
        name: str,
        server: Server,
        registry: MemoryRegistry,
        service: str,
        clock: Clock | None,
    ) -> None:
        self.name = name
        self.server = server
        self.address: Address = new_address(f"{service}/{name}")
        self._clock = clock
        self._link: Link = link_of(self.address)
        self._registry = _ReplicaRegistry(registry)
        self._errors = _Errors()
        self._stack = AsyncExitStack()
        server.load_processor([self._errors])
        clocks = {} if clock is None else {"clock": clock}
        self._overridden = server.overridden(
            host=self.address,
            service=service,
            registry=self._registry,
            advertise=None,
            drain_delay=0,
            **clocks,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.server!r}>"

    @property
    def calls(self) -> int:
        """Number of calls that it was sent so far; attempts of one call count one by one."""
        return self.server.connection_manager.calls_opened

    def kill(self) -> None:
        """End it at once, as when its process is killed.

        Open calls fail, and nothing listens at its address. Its registration stays until its lease
        expires. Stop events run when the fleet ends, or before a `restart`.
        """
        self._registry.mute()
        self.thaw()
        self.server.connection_manager.stop_at_once()

    async def restart(self) -> None:
        """Start it again at the same address, after `kill` or `stop`; without its faults."""
        self.recover()
        await self.server.close()
        await self._registry.forget()
        await self.server.create_server()

    async def stop(self) -> None:
        """Stop it as in a rolling update: it drains, and leaves the registry."""
        await self.server.close()

    def freeze(self) -> None:
        """Stop it as a process that gets no CPU: it answers nothing, and its lease is not renewed.

        Connections stay open, and new ones get no answer. What it does already goes on, but it
        tells nothing before `thaw`.
        """
        self._link.hold()
        self._registry.hold()

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._link.release()
        self._registry.release()

    def delay(self, seconds: float) -> None:
        """Let what it sends and gets take so many seconds each way; with 0, none.

        Raises:
            ValueError: It is less than 0.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must be at least 0, got {seconds!r}")
        self._link.set_delay(seconds, self._clock)

    def fail(
        self, error: CallError, function: str | None = None, *, times: int | None = None
    ) -> None:
        """Let its calls fail before the function runs.

        Args:
            error: What the callers get.
            function: Name of the function whose calls fail, or ``group/name``. `None`: all.
            times: How many calls fail. `None`: all until `recover`.
        """
        self._errors.add(error, function, times)

    def recover(self) -> None:
        """End freeze, delay and errors."""
        self.thaw()
        self.delay(0.0)
        self._errors.clear()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._overridden)
            stack.push_async_callback(self.server.close)
            await self.server.create_server()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.recover()
        await self._stack.aclose()


class _ReplicaRegistry:
    """The registry as one replica reaches it.

    Args:
        registry: The registry.
    """

    def __init__(self, registry: MemoryRegistry) -> None:
        self._registry = registry
        self._is_muted = False
        self._passes = asyncio.Event()
        self._passes.set()
        self._registered: tuple[str, Endpoint] | None = None

    def mute(self) -> None:
        """Let the replica write nothing more: its process is gone."""
        self._is_muted = True

    def hold(self) -> None:
        """Let the replica wait with what it writes."""
        self._passes.clear()

    def release(self) -> None:
        """Let pass what it waits with."""
        self._passes.set()

    async def forget(self) -> None:
        """Remove what a killed replica has left, and let the next one write."""
        if self._registered is not None:
            await self._registry.deregister(*self._registered)
        self._is_muted = False

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Register, unless muted."""
        await self._passes.wait()
        if not self._is_muted:
            self._registered = service, endpoint
            await self._registry.register(service, endpoint, ttl=ttl)

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Deregister, unless muted."""
        await self._passes.wait()
        if not self._is_muted:
            await self._registry.deregister(service, endpoint)

    def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Watch the service."""
        return self._registry.watch(service)

    def report_load(self, service: str, endpoint_id: str, load: LoadReport) -> None:
        """Report the load, unless muted."""
        if not self._is_muted:
            self._registry.report_load(service, endpoint_id, load)

    async def loads(self, service: str) -> Mapping[str, LoadReport]:
        """Return the reported loads."""
        return await self._registry.loads(service)

    async def services(self) -> Sequence[str]:
        """Return the names of all services."""
        return await self._registry.services()

    async def aclose(self) -> None:
        """Do nothing: the fleet keeps the registry."""


class _Errors(BaseProcessor):
    """Lets calls fail before their function runs."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []

    def add(self, error: CallError, function: str | None, times: int | None) -> None:
        self._rules.append(_Rule(error, function, times))

    def clear(self) -> None:
        self._rules.clear()

    def scope(self, call: Call) -> AbstractContextManager[None]:
        group, name = split_method(call.method)
        for rule in self._rules:
            if group != "registry" and rule.takes(group, name):
                raise rule.error
        return nullcontext()


class _Rule:
    """Which calls fail, and how.

    Args:
        error: What the callers get.
        function: Name or ``group/name``; `None`: all functions.
        times: How many calls fail; `None`: all.
    """

    def __init__(self, error: CallError, function: str | None, times: int | None) -> None:
        self.error = error
        self._function = function
        self._left = inf if times is None else times

    def takes(self, group: str, name: str) -> bool:
        """Return whether a call fails, and count it if so."""
        if self._left <= 0 or self._function not in (None, name, f"{group}/{name}"):
            return False
        self._left -= 1
        return True


def _names(count: int) -> list[str]:
    if count <= len(ascii_lowercase):
        return list(ascii_lowercase[:count])
    return [str(number) for number in range(1, count + 1)]
