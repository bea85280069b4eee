"""A client process: ``python -m bench.client PEER SETUP PORTS PIDS``, all but PEER of its servers.

It prints ``{}`` when the first call was answered. Then it reads one order per line,
``{"workload": …, "seconds": …}``, and writes its figures as one line, or ``{"error": …}``.
"""

import asyncio
import json
import os
import sys
import time

from bench.peers import load_adapter
from bench.workloads import WORKLOADS, Bench, Figures

__all__: list[str] = []

_START = 20.0  # seconds for a server to answer
_LOOK = 0.05  # seconds between two attempts
_LIMIT = 15.0  # seconds that a workload may take beyond ten times its own


async def _answered(bench: Bench) -> None:
    """Return when the servers answer."""
    end = time.monotonic() + _START
    while True:
        try:
            async with asyncio.timeout(_START):
                connection = await bench.connect()
                await connection.add(1, 2)
                await connection.close()
                return
        except Exception:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(_LOOK)


async def _run(bench: Bench, workload: str) -> Figures | dict[str, str]:
    try:
        async with asyncio.timeout(_LIMIT + 10 * bench.seconds):
            return await WORKLOADS[workload].run(bench)
    except Exception as exc:
        return {"error": f"{type(exc).__name__}: {exc}"[:200]}


def main() -> None:
    """Serve orders until standard input ends."""
    peer, setup, ports, pids = sys.argv[1:]
    adapter = load_adapter(peer)
    # Packages that print must not disturb the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    numbers = [int(port) for port in ports.split(",")]
    servers = [int(pid) for pid in pids.split(",")]

    async def serve_orders() -> None:
        await _answered(Bench(adapter, setup, numbers, servers, 0.0))
        print("{}", file=answers)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            bench = Bench(adapter, setup, numbers, servers, order["seconds"])
            print(json.dumps(await _run(bench, order["workload"])), file=answers)

    adapter.run(serve_orders)


if __name__ == "__main__":
    main()
