"""Which of the jobs that wait for a thread is next: clients take turns.

The client with the fewest running jobs is next. Of several, it is the one whose jobs have taken the
least time; one that had none meanwhile begins with as much as the one that was last. So a client
with many or long jobs keeps others waiting for one of its jobs, and not for all of them (start-time
fair queueing, Goyal, Vin and Cheng, 1996).

A client may have several parts, such as an address and a connection: addresses then take turns, and
the turns of one address are shared by its connections in the same way. So it does not help a client
to open more connections, and those behind one proxy do not keep each other waiting.
"""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

__all__ = ["Party", "Turns"]

J = TypeVar("J", bound=Hashable)
Party = tuple[Hashable, ...]  # its parts, one for each level

_MAX_STALE = 64  # entries of the heap that may be outdated, besides as many as there are clients


class Turns(Generic[J]):
    """The jobs that wait, by client. It takes no lock.

    Args:
        levels: Number of parts that each client has.

    Attributes:
        waiting: Number of jobs that wait.
    """

    __slots__ = ("_heap", "_last", "_levels", "_lines", "_queues", "_seconds", "waiting")

    def __init__(self, levels: int = 1) -> None:
        self.waiting = 0
        self._levels = levels
        self._lines: dict[Hashable, _Line[J]] = {}  # of clients with jobs that wait or run
        self._queues = 0  # clients with jobs that wait
        self._heap: list[tuple[int, float, int, Hashable]] = []
        self._last = 0  # number of the last entry
        self._seconds = 0.0  # those of the client that was last

    def begin(self, client: Party) -> None:
        """Count a job of a client that runs without waiting."""
        line = self._line(client[0])
        line.running += 1
        line.jobs.begin(client[1:])

    def add(self, client: Party, job: J) -> None:
        """Let a job of a client wait."""
        line = self._line(client[0])
        self.waiting += 1
        line.jobs.add(client[1:], job)
        if line.jobs.waiting == 1:
            self._queues += 1
            self._place(client[0], line)

    def remove(self, client: Party, job: J) -> bool:
        """Remove a job that waits; return whether it did."""
        line = self._lines.get(client[0])
        if line is None or not line.jobs.remove(client[1:], job):
            return False
        self._took(client[0], line)
        return True

    def next(self) -> J | None:
        """Return the job that is next, which begins to run; `None` if none waits."""
        while self._heap:
            _, _, number, client = heappop(self._heap)
            line = self._lines.get(client)
            if line is None or line.entry != number or not line.jobs.waiting:
                continue
            job = line.jobs.next()
            line.running += 1
            self._seconds = max(self._seconds, line.seconds)
            self._took(client, line)
            if line.jobs.waiting:
                self._place(client, line)
            return job
        return None

    def end(self, client: Party, seconds: float) -> None:
        """Note that a job of a client has run for so many seconds."""
        line = self._lines[client[0]]
        line.jobs.end(client[1:], seconds)
        line.running -= 1
        line.seconds += seconds
        if line.jobs.waiting:
            self._place(client[0], line)
        elif not line.running:
            del self._lines[client[0]]

    def ahead_of(self, client: Party) -> int:
        """Return how many jobs begin before the next job of a client, if it waits."""
        line = self._lines.get(client[0])
        own = 0 if line is None else line.jobs.ahead_of(client[1:])
        others = self._queues - (line is not None and line.jobs.waiting > 0)
        return min(self.waiting, own + others * (own + 1))

    def clear(self) -> list[J]:
        """Remove all jobs that wait, and return them."""
        found = [job for line in self._lines.values() for job in line.jobs.clear()]
        self.waiting = self._queues = 0
        self._heap.clear()
        return found

    def _line(self, client: Hashable) -> "_Line[J]":
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line(self._seconds, self._levels)
        return line

    def _took(self, client: Hashable, line: "_Line[J]") -> None:
        """Note that a waiting job has begun or was removed."""
        self.waiting -= 1
        if not line.jobs.waiting:
            self._queues -= 1
            if not line.running:
                del self._lines[client]

    def _place(self, client: Hashable, line: "_Line[J]") -> None:
        """Give a client its place in the order; an earlier entry of it is not valid any more."""
        self._last += 1
        line.entry = self._last
        heappush(self._heap, (line.running, line.seconds, line.entry, client))
        if len(self._heap) > 2 * self._queues + _MAX_STALE:
            self._heap = [each for each in self._heap if self._is_valid(each)]
            heapify(self._heap)

    def _is_valid(self, entry: tuple[int, float, int, Hashable]) -> bool:
        line = self._lines.get(entry[3])
        return line is not None and line.entry == entry[2] and line.jobs.waiting > 0


class _Line(Generic[J]):
    """The jobs of one client."""

    __slots__ = ("entry", "jobs", "running", "seconds")

    def __init__(self, seconds: float, levels: int) -> None:
        # Those that wait: in turn by the next part of the client, or the oldest first.
        self.jobs: Turns[J] | _Queue[J] = Turns(levels - 1) if levels > 1 else _Queue()
        self.running = 0
        self.seconds = seconds  # that its jobs have taken
        self.entry = 0  # number of its valid entry in the heap


class _Queue(Generic[J]):
    """The jobs of a client without further parts: as `Turns`, but the oldest job is next."""

    __slots__ = ("_jobs",)

    def __init__(self) -> None:
        self._jobs: dict[J, None] = {}

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def begin(self, _: Party) -> None:
        """Nothing is to be counted."""

    def add(self, _: Party, job: J) -> None:
        self._jobs[job] = None

    def remove(self, _: Party, job: J) -> bool:
        if job not in self._jobs:
            return False
        del self._jobs[job]
        return True

    def next(self) -> J | None:
        job = next(iter(self._jobs))
        del self._jobs[job]
        return job

    def end(self, _: Party, seconds: float) -> None:
        """Nothing was counted."""

    def ahead_of(self, _: Party) -> int:
        return len(self._jobs)

    def clear(self) -> list[J]:
        found = list(self._jobs)
        self._jobs.clear()
        return found
