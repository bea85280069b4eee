"""One server of the services under test: ``python -m chaos.replica PLAN AS JSON``.

The service ``stock`` has a function of each shape. The service ``front`` has one function, which
calls ``stock``. A replica prints ``ready`` when clients can call it. Every function that must not
be executed twice writes the id of the call to a ledger, which outlives the process.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from rap.client import Client
from rap.errors import CallError, Code
from rap.server import Channel, Server

__all__ = ["WORK_SECONDS", "Plan"]

WORK_SECONDS = 0.01  # for which a call of `work` holds the event loop
_CLOSE_TIMEOUT = 5.0  # seconds of a drain
_LEASE_TTL = 5.0  # seconds
_BURN = 10_000  # numbers to add up between two looks at the time


class Plan(NamedTuple):
    """What a replica is told.

    Args:
        service: Its service, stock or front.
        listen: Address to listen on.
        advertise: Address that clients dial; empty: the same.
        registry: URL of the registry.
        ledger: File to which it appends the ids of calls.
        is_fast: Whether it runs on uvloop.
    """

    service: str
    listen: str
    advertise: str
    registry: str
    ledger: str
    is_fast: bool


class _Ledger:
    """A file of the ids of calls, 8 bytes each. What was written survives a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, number: int) -> None:
        os.write(self._file, number.to_bytes(8, "little"))


class _Troubles:
    """What is wrong with this replica just now."""

    def __init__(self) -> None:
        self._code = Code.UNAVAILABLE
        self._until = 0.0

    def set_errors(self, code: int, seconds: float) -> None:
        """Let every call of `get` fail for some seconds."""
        self._code, self._until = Code(code), time.monotonic() + seconds

    def check(self) -> None:
        if self._until and time.monotonic() < self._until:
            raise CallError("this replica answers with errors now", code=self._code)


def _add_stock(server: Server, ledger: _Ledger) -> None:
    troubles = _Troubles()
    incarnation = os.getpid()

    @server.register(idempotent=True)
    async def get(number: int, size: int, pause: float) -> list[Any]:
        """Return the id, so many bytes, and which process this is."""
        troubles.check()
        if pause:
            await asyncio.sleep(pause)
        return [number, bytes(size), incarnation]

    @server.register
    async def put(number: int) -> list[int]:
        """Do something that must not be done twice."""
        ledger.write(number)
        return [number, incarnation]

    @server.register(idempotent=True)
    async def items(number: int, count: int, pause: float) -> AsyncIterator[list[int]]:
        """Yield the id with 0, 1, 2, ..."""
        for i in range(count):
            yield [number, i]
            if pause:
                await asyncio.sleep(pause)

    @server.register
    async def upload(number: int, rows: AsyncIterator[list[int]]) -> list[int]:
        """Count rows, which have to arrive once each and in order."""
        ledger.write(number)
        expected = 0
        async for given, i in rows:
            if (given, i) != (number, expected):
                raise CallError(f"got {given, i}, not {number, expected}", code=Code.DATA_LOSS)
            expected += 1
        return [number, expected]

    @server.register
    async def both(number: int, rows: AsyncIterator[list[int]]) -> AsyncIterator[list[int]]:
        """Return each row."""
        ledger.write(number)
        async for row in rows:
            yield row

    @server.register
    async def talk(channel: Channel, number: int) -> None:
        """Return each message."""
        ledger.write(number)
        async for message in channel:
            await channel.write(message)

    @server.register(idempotent=True)
    async def work(number: int) -> int:
        """Hold the event loop."""
        time.sleep(WORK_SECONDS)  # noqa: ASYNC251  # what is provoked
        return number

    @server.register(group="trouble")
    async def block(seconds: float) -> None:
        """Hold the event loop for long."""
        time.sleep(seconds)  # noqa: ASYNC251  # what is provoked

    @server.register(group="trouble")
    async def burn(seconds: float) -> None:
        """Fight for the interpreter in two threads."""
        for _ in range(2):
            threading.Thread(target=_burn, args=(seconds,), daemon=True).start()

    @server.register(group="trouble")
    async def fail(code: int, seconds: float) -> None:
        """Answer with errors."""
        troubles.set_errors(code, seconds)


def _burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(_BURN))


def _add_front(server: Server, client: Client) -> None:
    @client.register(name="get", idempotent=True)
    async def stock_get(number: int, size: int, pause: float) -> list[Any]: ...  # type: ignore[empty-body]

    @server.register(idempotent=True)
    async def order(number: int) -> list[Any]:
        """Ask the stock."""
        return await stock_get(number, 0, 0.0)


async def _main(plan: Plan) -> None:
    server = Server(
        plan.listen,
        service=plan.service,
        registry=plan.registry,
        advertise=plan.advertise or None,
        close_timeout=_CLOSE_TIMEOUT,
        lease_ttl=_LEASE_TTL,
    )

    def ready() -> None:
        print("ready", flush=True)

    if plan.service == "front":
        async with Client(service="stock", registry=plan.registry) as client:
            _add_front(server, client)
            await server.serve_forever(ready)
    else:
        _add_stock(server, _Ledger(Path(plan.ledger)))
        await server.serve_forever(ready)


def main() -> None:
    """Serve until a signal."""
    plan = Plan(*json.loads(sys.argv[1]))
    factory = uvloop.new_event_loop if plan.is_fast else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_main(plan))


if __name__ == "__main__":
    main()
