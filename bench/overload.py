"""What becomes of a service that is asked for more than it can do: ``python -m bench.overload``.

The capacity C of two replicas is measured first, in closed loops. Then calls come in an open loop:
at half of C, then at a multiple of C, then at half of C again. Time counts from the moment at which
a call was to begin, and *goodput* is the calls that were answered within their deadline of then on,
as a share of C. Each cell has processes of its own. The last lines say what rap must show, and the
worst cell of each. See "Overload" in docs/operations.md.

Servers do half as much as they could (``--slow 2``), so that the limit is never the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from array import array
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.overload_ends import EXPIRED, OK, REFUSED, Plan
from bench.pair import ENVIRONMENT

__all__ = ["Made", "Proof", "Summary", "Times", "measure", "summarize"]

_ROOT = Path(__file__).parents[1]
_REPLICAS = 2
_LOADS = (1.2, 2.0, 4.0)
_MANY = 8  # clients that share a load
_SLOW = 2.0  # by which factor servers do less than they could
_HALF = 0.5  # of C, before and after the overload
_DEADLINE = 0.5  # seconds
_SHORT_DEADLINE = 0.03
_BURST, _BURST_TIMEOUT = 1_000, 9.0
_POLITE, _GREEDY = 0.1, 4.0  # of C
_IN_FLIGHT = 64  # while the capacity is measured
_APART = ("small", "echo")  # kinds whose servers have a core of their own
_LEAST, _LEAST_OF_CHAIN = 0.9, 0.8  # goodput as a share of C
_RECOVERED = 2.0  # seconds
_ALL = 0.9995  # which is printed as 100.0 %
_RISE = 1.0  # seconds after the load rose that are told apart
_AHEAD = 0.3  # seconds for all clients to read their plan
N = TypeVar("N", int, float)

KINDS = ("blocking", "waiting", "threads", "chain", "small", "echo")
ENDS = ("rap", "grpc.aio", "grpc.aio limited")


class Made(NamedTuple):
    """A call that a client made.

    Args:
        at: When it was to begin, in seconds since the load rose.
        seconds: From then to its end.
        kind: What became of it; see `bench.overload_ends`.
    """

    at: float
    seconds: float
    kind: int


@dataclass(frozen=True)
class Times:
    """How long each phase lasts, in seconds: the load before, the overload, the load after."""

    before: float = 0.6
    over: float = 4.0
    after: float = 3.0


@dataclass(frozen=True)
class Summary:
    """What became of the calls under one load.

    Args:
        goodput: Calls a second that were answered in time, after the first second of the load.
        first: The same of the first second.
        answered: Share of the calls that began after the first second that was answered in time.
        p50: Milliseconds of the answered calls, after the first second: the median.
        p99: The same, of the slowest in a hundred.
        refused: Share of the calls that were refused.
        expired: Share of the calls whose deadline passed.
        failed: Share of the calls that failed in any other way, or were answered too late.
        recovery: Seconds from the end of the load to the last call that was not answered in time;
            `None`: there was one in the last second.
        again: Calls a second that were answered in time after that.
    """

    goodput: float
    first: float
    answered: float
    p50: float
    p99: float
    refused: float
    expired: float
    failed: float
    recovery: float | None
    again: float


def summarize(calls: Sequence[Made], times: Times, deadline: float) -> Summary:
    """Return what became of calls.

    Args:
        calls: All of them, in any order.
        times: The phases.
        deadline: Seconds; an answer after that is a failure.
    """
    rise = min(_RISE, times.over / 2)
    over = [call for call in calls if rise <= call.at < times.over]
    answered = sum(_is_good(call, deadline) for call in over) / max(1, len(over))
    ends = [call.at + call.seconds for call in calls if _is_good(call, deadline)]
    waits = sorted(call.seconds for call in over if call.kind == OK)
    total = max(1, len(over))
    refused = sum(call.kind == REFUSED for call in over) / total
    expired = sum(call.kind == EXPIRED for call in over) / total
    after = [call for call in calls if call.at >= times.over]
    bad = [call.at for call in after if not _is_good(call, deadline)]
    recovery: float | None = max(bad, default=times.over) - times.over
    if recovery is not None and recovery > times.after - _RISE:
        recovery = None
    settled = times.over + (0.0 if recovery is None else recovery)
    left = times.over + times.after - settled
    again = sum(call.at > settled and _is_good(call, deadline) for call in after) / max(left, 1e-9)
    return Summary(
        goodput=sum(rise <= end < times.over for end in ends) / (times.over - rise),
        first=sum(0.0 <= end < rise for end in ends) / rise,
        answered=answered,
        p50=_at(waits, 0.5),
        p99=_at(waits, 0.99),
        refused=refused,
        expired=expired,
        failed=max(0.0, 1.0 - answered - refused - expired) if over else 0.0,
        recovery=recovery,
        again=again,
    )


def _is_good(call: Made, deadline: float) -> bool:
    return call.kind == OK and call.seconds <= deadline


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3 if ordered else 0.0


# Processes


class _Process:
    """One process of `bench.overload_ends`."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "bench.overload_ends", *arguments]
        paths = {"PYTHONPATH": str(_ROOT), "GRPC_VERBOSITY": "NONE"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT, **paths},
        )

    def read(self) -> str:
        """Return its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended without an answer")
        return line.strip()

    def tell(self, plan: Plan) -> None:
        """Give a client its plan."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End it."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=10)


class _Stage:
    """The servers of one cell, and the clients that call them.

    Args:
        peer: Which library, and whether it has a limit.
        kind: What the handlers do; ``chain``: three services, of which the last one blocks.
        capacity: C, for the limit of grpc.aio; 0: it is being measured, without a limit.
        deadline: Of the calls, in seconds.
        slow: By which factor servers do less than they could.
    """

    def __init__(self, peer: str, kind: str, capacity: float, deadline: float, slow: float) -> None:
        self._peer, _, limited = peer.partition(" ")
        self._deadline = deadline
        self._slow = slow
        self._apart = kind in _APART
        self._processes: list[_Process] = []
        limit: list[str] = []
        if limited and capacity:
            # As many as can be answered within half of the deadline: more would expire.
            limit = ["--limit", str(max(1, round(capacity / _REPLICAS * deadline / 2)))]
        self._addresses = self._serve("blocking" if kind == "chain" else kind, limit)
        if kind == "chain":
            for _ in range(2):
                self._addresses = self._serve("forward", limit, self._addresses)

    def _serve(self, kind: str, limit: list[str], onward: Sequence[str] = ()) -> list[str]:
        kinds = ("--kind", kind, "--slow", str(self._slow))
        arguments = ("serve", self._peer, *kinds, *limit, *onward)
        servers = [self._start(*arguments) for _ in range(_REPLICAS)]
        return [server.read() for server in servers]

    def _start(self, role: str, *arguments: str) -> _Process:
        if self._apart:
            cores = sorted(os.sched_getaffinity(0))
            arguments = (*arguments, "--core", str(cores[0] if role == "serve" else cores[-1]))
        process = _Process(role, *arguments)
        self._processes.append(process)
        return process

    def clients(self, number: int) -> list[_Process]:
        """Start clients; return when all are connected."""
        timeout = ("--timeout", str(self._deadline))
        started = [
            self._start("drive", self._peer, *timeout, *self._addresses) for _ in range(number)
        ]
        for client in started:
            if (line := client.read()) != "ready":
                raise RuntimeError(f"a client said {line!r}")
        return started

    def end(self) -> None:
        """End all processes."""
        for process in reversed(self._processes):
            process.end()


def _calls_of(client: _Process, offset: float) -> tuple[list[Made], float]:
    """Return the calls that a client has made, and the seconds of processor time it took."""
    encoded, cpu = client.read().split()
    values = array("d", b64decode(encoded))
    calls = [
        Made(values[i] - offset, values[i + 1], int(values[i + 2]))
        for i in range(0, len(values), 3)
    ]
    return calls, float(cpu)


# Measurements


class _Bench:
    """Measures one kind of handler of one library.

    Args:
        peer: See `ENDS`.
        kind: See `KINDS`.
        slow: By which factor servers do less than they could.
        capacity: C; 0: not known yet.
    """

    def __init__(self, peer: str, kind: str, slow: float, capacity: float = 0.0) -> None:
        self.capacity = capacity
        self._peer = peer
        self._kind = kind
        self._slow = slow

    @contextmanager
    def _stage(self, deadline: float) -> Iterator[_Stage]:
        stage = _Stage(self._peer, self._kind, self.capacity, deadline, self._slow)
        try:
            yield stage
        finally:
            stage.end()

    def measure_capacity(self, seconds: float) -> None:
        """Find out how many calls a second two replicas answer."""
        with self._stage(_BURST_TIMEOUT) as stage:
            (client,) = stage.clients(1)
            client.tell({"in_flight": _IN_FLIGHT, "seconds": seconds})
            self.capacity = float(client.read())

    def load(
        self, shares: Sequence[float], times: Times, deadline: float = _DEADLINE
    ) -> tuple[list[Summary], float]:
        """Return what became of the calls of each client, and the cores that clients took.

        Args:
            shares: What each client asks for during the overload, as a share of C.
            times: The phases.
            deadline: Of the calls, in seconds.
        """
        with self._stage(deadline) as stage:
            clients = stage.clients(len(shares))
            start = time.monotonic() + _AHEAD
            for seed, (client, share) in enumerate(zip(clients, shares, strict=True)):
                calm = min(share, _HALF / len(shares)) * self.capacity
                over = share * self.capacity
                phases = [(times.before, calm), (times.over, over), (times.after, calm)]
                client.tell({"start": start, "seed": seed, "phases": phases})
            answers = [_calls_of(client, times.before) for client in clients]
        cores = sum(cpu for _, cpu in answers) / (times.before + times.over + times.after)
        return [summarize(calls, times, deadline) for calls, _ in answers], cores

    def burst(self) -> tuple[int, float]:
        """Return how many calls of a burst were answered, and the seconds until the last one."""
        with self._stage(_BURST_TIMEOUT) as stage:
            (client,) = stage.clients(1)
            start = time.monotonic() + _AHEAD
            client.tell({"start": start, "seed": 0, "at_once": _BURST})
            calls, _ = _calls_of(client, 0.0)
        return sum(_is_good(call, _BURST_TIMEOUT) for call in calls), max(c.seconds for c in calls)


def measure(kind: str, load: float, clients: int, times: Times) -> tuple[float, Summary]:
    """Return the capacity of two replicas of rap, and what became of calls beyond it.

    Args:
        kind: See `KINDS`.
        load: What is asked for, as a share of the capacity.
        clients: How many clients ask for it together.
        times: The phases.
    """
    bench = _Bench("rap", kind, _SLOW)
    bench.measure_capacity(times.before)
    found, _ = bench.load([load / clients] * clients, times)
    return bench.capacity, _together(found)


def _together(summaries: Sequence[Summary]) -> Summary:
    """Return one summary of clients that ask for the same."""
    mean = len(summaries)
    late = [each.recovery for each in summaries if each.recovery is not None]
    return Summary(
        goodput=sum(each.goodput for each in summaries),
        first=sum(each.first for each in summaries),
        answered=sum(each.answered for each in summaries) / mean,
        p50=sum(each.p50 for each in summaries) / mean,
        p99=max(each.p99 for each in summaries),
        refused=sum(each.refused for each in summaries) / mean,
        expired=sum(each.expired for each in summaries) / mean,
        failed=sum(each.failed for each in summaries) / mean,
        recovery=max(late) if len(late) == mean else None,
        again=sum(each.again for each in summaries),
    )


# Tables

_HEAD = (
    f"{'':30}{'good/C':>8}{'1st s':>7}{'p50':>7}{'p99 ms':>8}{'refused':>9}{'expired':>9}"
    f"{'other':>7}{'recovery':>10}{'again/C':>9}{'clients':>9}"
)


def _row(name: str, found: Summary, capacity: float, calm: float, cores: float) -> str:
    recovery = "never" if found.recovery is None else f"{found.recovery:.2f} s"
    again = found.again / (calm * capacity)
    return (
        f"{name:30}{found.goodput / capacity:8.2f}{found.first / capacity:7.2f}{found.p50:7.0f}"
        f"{found.p99:8.0f}{found.refused:9.1%}{found.expired:9.1%}{found.failed:7.1%}"
        f"{recovery:>10}{again:9.2f}{cores:9.2f}"
    )


class Proof:
    """What rap must show, and the worst of what it has shown."""

    def __init__(self) -> None:
        self._worst: dict[str, tuple[float, str, str]] = {}  # by the aim: how bad, what, where

    def add(self, kind: str, name: str, found: Summary, capacity: float, deadline: float) -> None:
        """Take what became of the calls in one cell."""
        least = _LEAST_OF_CHAIN if kind == "chain" else _LEAST
        goodput, where = found.goodput / capacity, f"{kind}, {name}"
        recovery = inf if found.recovery is None else found.recovery
        text = "never" if recovery == inf else f"{recovery:.2f} s"
        slow = found.p99 / 1e3 / deadline
        chain = " of a chain" if kind == "chain" else ""
        aims = (
            (f"goodput{chain} >= {least:g} C", least - goodput, f"{goodput:.2f} C"),
            ("p99 of the answered within the deadline", slow - 1.0, f"{found.p99:.0f} ms"),
            (
                f"no bad call later than {_RECOVERED:g} s after the load fell",
                recovery - _RECOVERED,
                text,
            ),
        )
        for aim, excess, value in aims:
            self._note(aim, excess, value, where)

    def add_polite(self, kind: str, answered: float) -> None:
        """Take the share of a polite client's calls that were answered beside a greedy one."""
        self._note("a polite client keeps all calls", _ALL - answered, f"{answered:.1%}", kind)

    def add_burst(self, kind: str, answered: int) -> None:
        """Take how many calls of a burst were answered."""
        aim = f"a burst of {_BURST:,} calls loses none"
        self._note(aim, _BURST - answered - 0.5, f"{answered:,} answered", kind)

    def lines(self) -> list[str]:
        """Return a line for each aim."""
        return [
            f"{'reached' if excess <= 0 else 'MISSED ':8}{aim}: at worst {value} ({where})"
            for aim, (excess, value, where) in self._worst.items()
        ]

    def _note(self, aim: str, excess: float, value: str, where: str) -> None:
        known = self._worst.get(aim)
        if known is None or excess > known[0]:
            self._worst[aim] = (excess, value, where)


def _measure(peer: str, kind: str, given: argparse.Namespace, proof: Proof | None) -> None:
    """Measure and print one kind of handler of one library."""
    times = Times(over=given.over, after=given.after)
    # With a limit it is the same server.
    known = given.capacities.get((peer.partition(" ")[0], kind), 0.0)
    bench = _Bench(peer, kind, given.slow, known)
    if not known:
        bench.measure_capacity(given.capacity_seconds)
    capacity = given.capacities[peer.partition(" ")[0], kind] = bench.capacity
    print(f"\n{peer}, {kind}: C = {capacity:.0f} calls/s\n{_HEAD}", flush=True)
    for number, load in _cells(peer, kind, given):
        found, cores = bench.load([load / number] * number, times)
        name = f"{load:g}C, {number} client{'s' * (number > 1)}"
        both = _together(found)
        print(_row(name, both, capacity, _HALF, cores), flush=True)
        if proof is not None:
            proof.add(kind, name, both, capacity, _DEADLINE)
    if kind == "chain" or (given.quick and peer != "rap"):
        return
    if "deadline" in given.extras:
        found, cores = bench.load([2.0], times, _SHORT_DEADLINE)
        name = f"2C, deadline {_SHORT_DEADLINE * 1e3:.0f} ms"
        print(_row(name, found[0], capacity, _HALF, cores), flush=True)
    if "polite" in given.extras:
        shares = [_POLITE, _GREEDY]
        found, cores = bench.load(shares, times)
        for name, share, each in zip(("polite", "greedy"), shares, found, strict=True):
            calm = min(share, _HALF / 2)
            row = _row(f"{name}, {share:g}C of its own", each, capacity, calm, cores)
            print(f"{row}  answered {each.answered:.1%}", flush=True)
        if proof is not None:
            proof.add_polite(kind, found[0].answered)
    if "burst" in given.extras:
        good, seconds = bench.burst()
        print(f"burst of {_BURST:,}, timeout 9 s: {good:,} answered, within {seconds:.2f} s")
        if proof is not None:
            proof.add_burst(kind, good)


def _cells(peer: str, kind: str, given: argparse.Namespace) -> list[tuple[int, float]]:
    """Return how many clients ask for which load, in each cell of a table."""
    loads: list[float] = given.loads or list(_LOADS)
    if given.clients:
        return [(number, load) for number in given.clients for load in loads]
    if given.quick and peer != "rap":
        return [(1, loads[len(loads) // 2])]
    cells = [(1, load) for load in loads]
    if kind != "chain" and not (given.quick and given.loads):
        cells += [(_MANY, load) for load in (loads[-1:] if given.quick else loads)]
    return cells


def _has_grpc() -> bool:
    return find_spec("grpc") is not None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cells, short phases")
    parser.add_argument("--peers", type=_names(ENDS), help=f"default: all of {', '.join(ENDS)}")
    parser.add_argument("--kinds", type=_names(KINDS), default=list(KINDS[:4]))
    parser.add_argument("--clients", type=_numbers(int), help="default: 1, and 8 of one hop")
    parser.add_argument("--loads", type=_numbers(float), help="shares of C; default: 1.2,2,4")
    extras = ("deadline", "polite", "burst")
    parser.add_argument("--extras", type=_names(extras), default=["polite", "burst"])
    parser.add_argument("--over", type=float, help="seconds of overload")
    parser.add_argument("--after", type=float, help="seconds after it")
    parser.add_argument("--capacity-seconds", type=float, help="for measuring C")
    parser.add_argument("--slow", type=float, default=_SLOW, help="by which factor servers do less")
    given = parser.parse_args()
    quick = given.quick
    given.over = given.over or (2.5 if quick else Times.over)
    given.after = given.after or (2.5 if quick else Times.after)
    given.capacity_seconds = given.capacity_seconds or (1.2 if quick else 2.0)
    given.capacities = {}
    peers = given.peers or [peer for peer in ENDS if peer == "rap" or _has_grpc()]
    if not given.peers and not _has_grpc():
        print("grpc.aio is not installed here, so rap is measured alone: see `make bench-overload`")
    proof = Proof()
    for peer in peers:
        for kind in given.kinds:
            _measure(peer, kind, given, proof if peer == "rap" else None)
    if lines := proof.lines():
        print("\nWhat rap must show:", *lines, sep="\n", flush=True)


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def _numbers(kind: Callable[[str], N]) -> Callable[[str], list[N]]:
    return lambda text: [kind(each) for each in text.split(",")]


if __name__ == "__main__":
    main()
