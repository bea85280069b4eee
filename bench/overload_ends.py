"""The servers and the clients of `bench.overload`, for rap and for grpc.aio.

Both peers run the same kinds of handler and are driven in the same way. Each process is
``python -m bench.overload_ends ROLE ...``: a server prints its address, a client prints ``ready``,
reads a plan, and prints what became of every call.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from array import array
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import uvloop

__all__ = ["EXPIRED", "FAILED", "KINDS", "OK", "PEERS", "REFUSED", "Plan"]

PEERS = ("rap", "grpc.aio")
KINDS = ("blocking", "waiting", "threads", "small", "echo", "forward")
OK, REFUSED, EXPIRED, FAILED = range(4)
"""What became of a call."""
_BLOCKS = 0.002  # seconds for which a call of "blocking" holds the event loop
_WAITS = 0.050  # seconds that a call of "waiting" waits, `_AT_ONCE` at a time
_AT_ONCE = 20
_WORKS = 0.020  # seconds that a call of "threads" takes one of `_THREADS` threads
_THREADS = 6
_NUMBERS = 25_000  # that a call of "small" adds up, which takes 0.5 ms of processor time
_TICK = 0.001  # seconds between two looks at which calls are due
_WARM_UP = 0.5  # seconds
_LINGER = 1.0  # seconds after the deadline that a client waits for the last calls
_SERVICE, _METHOD = "overload.Bench", "Work"

Plan = dict[str, Any]
"""What a client is to do: ``start`` on the monotonic clock, ``phases`` as pairs of seconds and
calls per second, ``timeout``, ``seed``; or ``at_once`` calls; or ``in_flight`` in closed loops."""
Call = Callable[[], Awaitable[object]]


def _handler(kind: str, slow: float) -> Callable[[], Any]:
    """Return the function that a server of this kind runs.

    Args:
        kind: One of `KINDS`.
        slow: By which factor its server does less.
    """

    async def blocking() -> int:
        time.sleep(_BLOCKS * slow)  # noqa: ASYNC251  # what is measured
        return 1

    places = asyncio.Semaphore(round(_AT_ONCE / slow))

    async def waiting() -> int:
        async with places:
            await asyncio.sleep(_WAITS)
        return 1

    def threads() -> int:
        time.sleep(_WORKS)
        return 1

    async def small() -> int:
        return sum(range(round(_NUMBERS * slow)))

    async def echo() -> int:
        return 1

    made = {
        "blocking": blocking,
        "waiting": waiting,
        "threads": threads,
        "small": small,
        "echo": echo,
    }
    return made[kind]


# rap


async def _serve_rap(kind: str, slow: float, onward: list[str]) -> None:
    from rap.server import Server

    server = Server("127.0.0.1:0", threads=round(_THREADS / slow) if kind == "threads" else None)
    if kind == "forward":
        from rap.client import Client

        client = Client(onward)

        @client.register(name="work")
        async def next_work() -> int: ...  # type: ignore[empty-body]

        @server.register
        async def work() -> int:
            return await next_work()

    else:
        server.register(_handler(kind, slow), "work")
    async with server:
        print(server.addresses[0], flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def _call_rap(
    addresses: list[str], timeout: float
) -> AsyncIterator[tuple[Call, Callable[[BaseException], int]]]:
    from rap.client import Client
    from rap.errors import CallError, Code

    def kind_of(error: BaseException) -> int:
        if not isinstance(error, CallError):
            return FAILED
        kinds = {Code.RESOURCE_EXHAUSTED: REFUSED, Code.DEADLINE_EXCEEDED: EXPIRED}
        return kinds.get(error.code, FAILED)

    async with Client(addresses) as client:

        @client.register(timeout=timeout)
        async def work() -> int: ...  # type: ignore[empty-body]

        yield work, kind_of


# grpc.aio


async def _serve_grpc(kind: str, slow: float, onward: list[str], limit: int | None) -> None:
    if kind == "forward":
        async with _call_grpc(onward, None) as (call, _):

            async def work(_: bytes, context: Any) -> bytes:
                call_next: Any = call
                return bytes(await call_next(timeout=context.time_remaining()))

            await _run_grpc(work, limit, _THREADS)
        return
    func = _handler(kind, slow)
    if kind == "threads":

        def threads(_: bytes, context: Any) -> bytes:
            func()
            return b"1"

        await _run_grpc(threads, limit, round(_THREADS / slow))
        return

    async def plain(_: bytes, context: Any) -> bytes:
        await func()
        return b"1"

    await _run_grpc(plain, limit, _THREADS)


async def _run_grpc(work: Any, limit: int | None, threads: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc.aio

    server = grpc.aio.server(
        ThreadPoolExecutor(threads),
        options=[("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=limit,
    )
    handler = grpc.unary_unary_rpc_method_handler(work)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


@asynccontextmanager
async def _call_grpc(
    addresses: list[str], timeout: float | None
) -> AsyncIterator[tuple[Any, Callable[[BaseException], int]]]:
    import functools

    import grpc.aio

    def kind_of(error: BaseException) -> int:
        code = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
        kinds = {
            grpc.StatusCode.RESOURCE_EXHAUSTED: REFUSED,
            grpc.StatusCode.DEADLINE_EXCEEDED: EXPIRED,
        }
        return FAILED if code is None else kinds.get(code, FAILED)

    options = [
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    target = f"ipv4:{','.join(addresses)}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        method = channel.unary_unary(f"/{_SERVICE}/{_METHOD}")
        await channel.channel_ready()
        if timeout is None:
            yield functools.partial(method, b""), kind_of
        else:
            yield functools.partial(method, b"", timeout=timeout), kind_of


# Clients


async def _drive(peer: str, addresses: list[str], timeout: float) -> None:
    """Carry out the plan that comes on standard input; print the calls."""
    ends = _call_rap if peer == "rap" else _call_grpc
    async with ends(addresses, timeout) as (call, kind_of):
        end = time.monotonic() + _WARM_UP  # so that all servers are connected
        while time.monotonic() < end:
            with suppress(Exception):
                await call()
        print("ready", flush=True)
        plan: Plan = json.loads(await asyncio.to_thread(sys.stdin.readline))
        if "in_flight" in plan:
            print(await _closed_loops(call, plan["in_flight"], plan["seconds"]), flush=True)
            return
        rng, due = Random(plan["seed"]), 0.0
        times: list[float] = [0.0] * plan.get("at_once", 0)
        for seconds, rate in plan.get("phases", ()):
            end = due + seconds
            while rate and (due := due + rng.expovariate(rate)) < end:
                times.append(due)
            due = end
        calls = await _open_loop(call, kind_of, plan["start"], times, timeout)
        print(b64encode(calls.tobytes()).decode(), time.process_time(), flush=True)


async def _closed_loops(call: Call, in_flight: int, seconds: float) -> float:
    """Return how many calls a second are answered; the first fifth of the time does not count."""
    begin = time.monotonic() + seconds / 5
    end = begin + seconds
    answered = 0

    async def loop() -> None:
        nonlocal answered
        while (now := time.monotonic()) < end:
            await call()
            answered += now >= begin

    await asyncio.gather(*(loop() for _ in range(in_flight)))
    return answered / (time.monotonic() - begin)


async def _open_loop(
    call: Call,
    kind_of: Callable[[BaseException], int],
    start: float,
    times: list[float],
    timeout: float,
) -> "array[float]":
    """Begin calls at their times, whatever became of earlier ones.

    Args:
        call: Makes a call.
        kind_of: Tells what became of a call that failed.
        start: Seconds on the monotonic clock that the times count from.
        times: When calls are to begin, in order.
        timeout: Of a call.

    Returns:
        Of each call: when it was to begin, the seconds from then to its end, and what became of it.
    """
    calls = array("d")
    for at in times:  # of a call that is not over at the end
        calls.extend((at, timeout + _LINGER, EXPIRED))
    now, create_task = time.monotonic, asyncio.get_running_loop().create_task

    async def one(number: int, at: float) -> None:
        kind = OK
        try:
            await call()
        except Exception as error:
            kind = kind_of(error)
        calls[number * 3 : number * 3 + 3] = array("d", (at, now() - start - at, kind))

    tasks: set[asyncio.Task[None]] = set()
    number = 0
    while number < len(times):
        passed = now() - start
        while number < len(times) and times[number] <= passed - timeout:
            number += 1  # this process was too late itself: the call counts as expired
        while number < len(times) and times[number] <= passed:
            task = create_task(one(number, times[number]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        if number < len(times):
            await asyncio.sleep(max(_TICK, times[number] - passed))
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=timeout + _LINGER)
        for task in late:
            task.cancel()
    return calls


def main() -> None:
    """Run one process."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload_ends")
    parser.add_argument("role", choices=("serve", "drive"))
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--timeout", type=float, default=0.5)
    parser.add_argument("--limit", type=int, help="maximum_concurrent_rpcs of grpc.aio")
    parser.add_argument("--slow", type=float, default=1.0, help="by which factor servers do less")
    parser.add_argument("addresses", nargs="*", help="of the servers to call")
    parser.add_argument("--core", type=int, help="to run on")
    given = parser.parse_intermixed_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    if given.role == "drive":
        running = _drive(given.peer, given.addresses, given.timeout)
    elif given.peer == "rap":
        running = _serve_rap(given.kind, given.slow, given.addresses)
    else:
        running = _serve_grpc(given.kind, given.slow, given.addresses, given.limit)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(running)


if __name__ == "__main__":
    main()
