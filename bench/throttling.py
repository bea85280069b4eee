"""What throttling in clients saves for a server of small calls: ``python -m bench.throttling``.

Simulated, because one machine cannot ask so much of a server. Clients call a server at random
moments, with a deadline of half a second. To refuse a call costs the server a fixed time, and to
serve one costs a multiple of it. The server refuses calls that would wait longer than half of their
time, as the gate of `rap.server` does. It reads all that has arrived, then works for 10 ms.

For the goodput after the first second, as a share of what the server could serve if it were asked
for no more than that.
"""

import argparse
from collections import deque
from heapq import heappop, heappush
from random import Random

from rap.client.throttle import Throttle

__all__ = ["simulate"]

_REFUSAL = 200e-6  # seconds; real ones cost 5 us, but simulating so many calls takes long
_SCALE = _REFUSAL / 5e-6
_DEADLINE = 0.5
_SLICE = 0.01
_SECONDS = 6.0
_RISE = 1.0


class _Call:
    __slots__ = ("at", "client")

    def __init__(self, at: float, client: int) -> None:
        self.at = at
        self.client = client


def simulate(cost: float, load: float, *, clients: int = 8, throttle: bool, seed: int = 1) -> float:
    """Return the goodput as a share of capacity.

    Args:
        cost: Of serving a call, in refusals.
        load: Calls as a multiple of capacity.
        clients: How many share the load.
        throttle: Whether the clients throttle their calls.
        seed: Of chance.
    """
    rng = Random(seed)
    work = cost * _REFUSAL
    throttles: list[Throttle | None] = [None] * clients
    arrived: deque[_Call] = deque()
    waiting: deque[_Call] = deque()
    refused: list[tuple[float, int]] = []
    served = 0
    server = 0.0  # until when it works
    due = rng.expovariate(load / work)
    while due < _SECONDS:
        if (arrived or waiting) and server <= due:
            while arrived:
                call = arrived.popleft()
                if len(waiting) * work > (call.at + _DEADLINE - server) / 2:
                    server += _REFUSAL
                    heappush(refused, (server, call.client))
                else:
                    server += _REFUSAL / 2
                    waiting.append(call)
            end = server + _SLICE
            while waiting and server < end:
                call = waiting.popleft()
                server += work
                served += _RISE < server <= call.at + _DEADLINE
            continue
        server = max(server, due) if not (arrived or waiting) else server
        while refused and refused[0][0] <= due:
            then, client = heappop(refused)
            found = throttles[client]
            if found is None:
                found = throttles[client] = Throttle(then, free=_FREE)
            found.count_refusal(due)
        client = int(rng.random() * clients)
        found = throttles[client] if throttle else None
        if found is not None and found.is_over(due):
            found = throttles[client] = None
        if found is None or found.allows(due, rng.random()):
            arrived.append(_Call(due, client))
        due += rng.expovariate(load / work)
    return served * work / (_SECONDS - _RISE)


_FREE = 100.0 / _SCALE


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.throttling", description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    print("goodput / C, without and with throttling; cost of a call in refusals")
    print(f"{'cost':>6}" + "".join(f"{f'{load:g}C':>16}" for load in (1.2, 2.0, 4.0)))
    for cost in (1, 2, 5, 20, 100):
        row = f"{cost:>6}"
        for load in (1.2, 2.0, 4.0):
            without, found = (
                simulate(cost, load, clients=given.clients, throttle=each) for each in (False, True)
            )
            row += f"{without:9.2f}{found:7.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
