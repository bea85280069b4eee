"""The interface between the benchmarks and a peer; `bench.adapters` has one `Adapter` for each.

The same object is used in three kinds of process: a server calls `serve`, a client calls
`connect` and the methods of a `Connection`, and the driver reads attributes only. Therefore the
packages of the peer are imported inside methods.

Every peer serves the same functions: ``add``, ``echo``, ``records``, two streams and a channel.
"""

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

__all__ = [
    "HOST",
    "Adapter",
    "Connection",
    "Main",
    "Pings",
    "Row",
    "Setup",
    "certificate",
    "no_module",
    "run_uvloop",
]

HOST = "127.0.0.1"
Main = Callable[[], Coroutine[Any, Any, None]]
Row = dict[str, Any]
Setup = str  # how a server is set up: "plain", "tls", or one that only some peers know


def certificate() -> tuple[str, str]:
    """Return the paths of the certificate and the key that the driver created for this run."""
    folder = Path(os.environ["BENCH_CERTIFICATE"])
    return str(folder / "server.crt"), str(folder / "server.key")


def no_module(name: str) -> str | None:
    """Say that a module cannot be found; `None` if it can."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    return None if found is not None else f"module {name} is not installed"


def run_uvloop(main: Main) -> None:
    """Run a program on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


class Pings:
    """A channel whose other end returns every message."""

    async def ping(self, item: int) -> int:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Connection:
    """One connection of a client; for peers without multiplexing, one pool of connections."""

    async def add(self, a: int, b: int) -> int:
        """Return the sum, computed by the server."""
        raise NotImplementedError

    async def echo(self, data: bytes) -> object:
        """Return the same bytes."""
        raise NotImplementedError

    async def records(self, rows: list[Row]) -> int:
        """Send rows, get them back, and return the sum of their ids."""
        raise NotImplementedError

    def stream(self, count: int) -> AsyncIterator[object]:
        """Yield `count` integers that a generator of the server yields.

        A negative count: as many, each in a turn of the loop of its own; only for peers with
        ``apart`` among their `extras`.
        """
        raise NotImplementedError

    def stream_kib(self, count: int) -> AsyncIterator[object]:
        """Yield `count` pieces of 1 KiB that a generator of the server yields."""
        raise NotImplementedError

    async def upload(self, items: Iterable[int] | AsyncIterator[int]) -> int:
        """Send integers in a request stream; return their sum, computed by the server.

        Only for peers with ``upload`` among their `extras`.
        """
        raise NotImplementedError

    async def open_channel(self) -> Pings:
        raise NotImplementedError

    async def add_blocking(self, a: int, b: int) -> int:
        """Return the sum, computed by a ``def`` that the server runs in a thread."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Adapter:
    """Runs one peer; a subclass sets the attributes.

    Attributes:
        name: Name of the peer in tables.
        package: Distribution whose version is reported; `None` for this checkout.
        imports: Modules that a client program imports; their import is timed.
        extras: Setups and workloads that only few peers support.
        settings: The settings of the peer, for the report.
        environment: Environment variables of both processes.
        idle_connections: Number of connections of which the memory is measured.
        stream_items: Number of items in one stream.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    imports: ClassVar[tuple[str, ...]]
    extras: ClassVar[frozenset[str]] = frozenset()
    settings: ClassVar[str] = ""
    environment: ClassVar[Mapping[str, str]] = {}
    idle_connections: ClassVar[int] = 500
    stream_items: ClassVar[int] = 100_000

    def version(self) -> str:
        from importlib.metadata import version  # 2 MiB, which no server here is to be charged for

        return version(self.package) if self.package else ""

    def not_installed(self) -> str | None:
        """Say which module is missing; `None` if the peer can run."""
        return next((why for module in self.imports if (why := no_module(module))), None)

    def missing(self) -> Mapping[str, str]:
        """Return the features that cannot be measured, each with the reason."""
        return {}

    def serve(self, port: int, setup: Setup) -> None:
        """Serve until the process is ended."""
        raise NotImplementedError

    def run(self, main: Main) -> None:
        """Run a client's program on the loop that is best for the peer."""
        run_uvloop(main)

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        """Open one new connection; to several servers where several ports are given."""
        raise NotImplementedError

    def connect_sync(self, port: int) -> AbstractContextManager[Callable[[int, int], int]]:
        """Return ``add`` for code without an event loop, for any thread, while it is entered."""
        raise NotImplementedError
