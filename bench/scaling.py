"""Measure the gain from more workers: ``python -m bench.scaling``.

It runs ``rap serve --workers`` with a handler that computes for a while. Clients find the workers
through a registry of files, so the balancer distributes the calls. The clients need cores, too, and
on a small machine they take them from the workers. Therefore the report has the processor time of
each side, and an estimate for workers that have all cores.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench.load import closed_loops
from bench.process import cpu_seconds
from rap.client import Client
from rap.server import Server

__all__ = ["make_server"]

_SERVICE = "scaling"
_REGISTRY = "BENCH_REGISTRY"  # in the environment: URL of the registry
_IN_FLIGHT = 32  # by each client
_ROOT = Path(__file__).parents[1]


class Measured(NamedTuple):
    """The measurements of a number of workers."""

    per_second: float
    server_cores: float
    client_cores: float


def make_server() -> Server:
    """Return the server of one worker."""
    server = Server("127.0.0.1:0", service=_SERVICE, registry=os.environ[_REGISTRY], drain_delay=0)

    @server.register
    async def work(count: int) -> int:
        return sum(range(count))

    return server


async def _client(seconds: float, count: int) -> None:
    """Make calls for a while when all clients begin; print their number and the processor time."""
    async with Client(service=_SERVICE, registry=os.environ[_REGISTRY]) as client:

        @client.register()
        async def work(count: int) -> int: ...  # type: ignore[empty-body]

        await closed_loops([lambda: work(count)] * _IN_FLIGHT, 0.2, ())
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        load = await closed_loops([lambda: work(count)] * _IN_FLIGHT, seconds, ())
        print(json.dumps([load.per_second, load.client_cpu / load.seconds]), flush=True)


def _measure(workers: int, clients: int, seconds: float, count: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="rap-scaling-") as folder:
        paths = {"PYTHONPATH": str(_ROOT), _REGISTRY: f"file://{folder}"}
        environment = {**os.environ, **paths}
        serve = [sys.executable, "-m", "rap.cli", "serve", "bench.scaling:make_server"]
        serving = subprocess.Popen(
            [*serve, "--workers", str(workers), "--log-level", "warning"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        calling: list[subprocess.Popen[str]] = []
        try:
            _expect([serving] * workers, "listening on")
            command = [sys.executable, "-m", "bench.scaling", "--client"]
            calling += [
                subprocess.Popen(
                    [*command, "--seconds", str(seconds), "--count", str(count)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
                for _ in range(clients)
            ]
            _expect(calling, "ready")
            before, start = cpu_seconds([serving.pid]), time.perf_counter()
            for client in calling:
                assert client.stdin is not None
                client.stdin.write("go\n")
                client.stdin.flush()
            answers = [json.loads(line) for line in _expect(calling, "[")]
            took = time.perf_counter() - start
            server_cores = (cpu_seconds([serving.pid]) - before) / took
            return Measured(
                sum(rate for rate, _ in answers), server_cores, sum(cores for _, cores in answers)
            )
        finally:
            for process in [*calling, serving]:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=10)


def _expect(processes: Sequence[subprocess.Popen[str]], text: str) -> list[str]:
    """Return the next line of each process that has a text."""
    lines = []
    for process in processes:
        assert process.stdout is not None
        found = next((line for line in process.stdout if text in line), None)
        if found is None:
            raise RuntimeError(f"{process.args!r} ended without {text!r}")
        lines.append(found)
    return lines


def main() -> None:
    """Measure one worker, then more, up to the number of cores."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=2, help="client processes")
    parser.add_argument("--count", type=int, default=5_000, help="numbers that a call adds up")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_client(options.seconds, options.count))
        return
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {options.clients} clients with {_IN_FLIGHT} calls in flight each")
    print(
        f"{'workers':>8}{'calls/s':>10}{'servers':>9}{'clients':>9}{'calls/s of a server core':>26}"
    )
    for number in range(options.rounds):
        for workers in sorted({1, 2, cores}):
            found = _measure(workers, options.clients, options.seconds, options.count)
            each = found.per_second / found.server_cores
            print(
                f"{workers:>8}{found.per_second:>10,.0f}{found.server_cores:>9.2f}"
                f"{found.client_cores:>9.2f}{each:>26,.0f}",
                flush=True,
            )
        if number + 1 < options.rounds:
            print()


if __name__ == "__main__":
    main()
