"""Which of the jobs that wait for a thread is next: clients take turns.

The client with the fewest running jobs is next. Of several, it is the one whose jobs have taken the
least time; one that had none meanwhile begins with as much as the one that was last. So a client
with many or long jobs keeps others waiting for one of its jobs, and not for all of them (start-time
fair queueing, Goyal, Vin and Cheng, 1996).
"""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Turns"]

J = TypeVar("J", bound=Hashable)

_MAX_STALE = 64  # entries of the heap that may be outdated, besides as many as there are clients


class _Line(Generic[J]):
    """The jobs of one client."""

    __slots__ = ("entry", "jobs", "running", "seconds")

    def __init__(self, seconds: float) -> None:
        self.jobs: dict[J, None] = {}  # that wait, the oldest first
        self.running = 0
        self.seconds = seconds  # that its jobs have taken
        self.entry = 0  # number of its valid entry in the heap


class Turns(Generic[J]):
    """The jobs that wait, by client. It takes no lock.

    Attributes:
        waiting: Number of jobs that wait.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._lines: dict[Hashable, _Line[J]] = {}  # of clients with jobs that wait or run
        self._queues = 0  # clients with jobs that wait
        self._heap: list[tuple[int, float, int, Hashable]] = []
        self._numbers = count(1)
        self._seconds = 0.0  # those of the client that was last

    def begin(self, client: Hashable) -> None:
        """Count a job of a client that runs without waiting."""
        self._line(client).running += 1

    def add(self, client: Hashable, job: J) -> None:
        """Let a job of a client wait."""
        line = self._line(client)
        self.waiting += 1
        line.jobs[job] = None
        if len(line.jobs) == 1:
            self._queues += 1
            self._place(client, line)

    def remove(self, client: Hashable, job: J) -> bool:
        """Remove a job that waits; return whether it did."""
        line = self._lines.get(client)
        if line is None or job not in line.jobs:
            return False
        del line.jobs[job]
        self._took(client, line)
        return True

    def next(self) -> J | None:
        """Return the job that is next, which begins to run; `None` if none waits."""
        while self._heap:
            _, _, number, client = heappop(self._heap)
            line = self._lines.get(client)
            if line is None or line.entry != number or not line.jobs:
                continue
            job = next(iter(line.jobs))
            del line.jobs[job]
            line.running += 1
            self._seconds = max(self._seconds, line.seconds)
            self._took(client, line)
            if line.jobs:
                self._place(client, line)
            return job
        return None

    def end(self, client: Hashable, seconds: float) -> None:
        """Note that a job of a client has run for so many seconds."""
        line = self._lines[client]
        line.running -= 1
        line.seconds += seconds
        if line.jobs:
            self._place(client, line)
        elif not line.running:
            del self._lines[client]

    def ahead_of(self, client: Hashable) -> int:
        """Return how many jobs begin before the next job of a client, if it waits."""
        line = self._lines.get(client)
        own = 0 if line is None else len(line.jobs)
        others = self._queues - (own > 0)
        return min(self.waiting, own + others * (own + 1))

    def clear(self) -> list[J]:
        """Remove all jobs that wait, and return them."""
        found = [job for line in self._lines.values() for job in line.jobs]
        for line in self._lines.values():
            line.jobs.clear()
        self.waiting = self._queues = 0
        self._heap.clear()
        return found

    def _line(self, client: Hashable) -> _Line[J]:
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line(self._seconds)
        return line

    def _took(self, client: Hashable, line: _Line[J]) -> None:
        """Note that a waiting job has begun or was removed."""
        self.waiting -= 1
        if not line.jobs:
            self._queues -= 1
            if not line.running:
                del self._lines[client]

    def _place(self, client: Hashable, line: _Line[J]) -> None:
        """Give a client its place in the order; an earlier entry of it is not valid any more."""
        line.entry = next(self._numbers)
        heappush(self._heap, (line.running, line.seconds, line.entry, client))
        if len(self._heap) > 2 * self._queues + _MAX_STALE:
            self._heap = [each for each in self._heap if self._is_valid(each)]
            heapify(self._heap)

    def _is_valid(self, entry: tuple[int, float, int, Hashable]) -> bool:
        line = self._lines.get(entry[3])
        return line is not None and line.entry == entry[2] and bool(line.jobs)
