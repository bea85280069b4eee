"""What a day has left behind: the calls, the ledgers and what the drivers saw, and the verdict."""

import json
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from chaos.day import Happening
from chaos.driver import FIELDS, SERIALS, Outcome
from chaos.shapes import SHAPES

__all__ = ["Effect", "Failure", "Found", "Second", "read_day"]

_PAUSE = 0.2  # seconds of a driver's own lateness that explain a failure
_WINDOW = 1.0  # seconds over which the calls of a replica are counted
_STEP = 0.25  # seconds between two such windows
_HALF = 0.5  # of what a replica is due: it takes part again
_SLOW = 0.25  # seconds that a call takes at least while an event disturbs it
_NAMES = [shape.name for shape in SHAPES]
_WORK = _NAMES.index("work")
_NOT_TWICE = {
    index for index, shape in enumerate(SHAPES) if not shape.is_idempotent and shape.name != "work"
}


class Failure(NamedTuple):
    """A call that failed.

    Args:
        at: When it was to begin, in seconds since the start.
        ended: When it failed.
        shape: Name of its shape.
        deadline: Seconds that it had.
        outcome: Name of the outcome.
        error: Class and text of the error.
    """

    at: float
    ended: float
    shape: str
    deadline: float
    outcome: str
    error: str


@dataclass(slots=True)
class Second:
    """The calls that were to begin in one second.

    Attributes:
        latencies: Seconds of those that were answered, without `work`.
        outcomes: How many ended in each way, without `work`.
        work: How many calls of `work` ended in each way.
        excused: How many of those that failed do not count against rap.
    """

    latencies: list[float] = field(default_factory=list)
    outcomes: Counter[int] = field(default_factory=Counter)
    work: Counter[int] = field(default_factory=Counter)
    excused: int = 0

    def percentile(self, share: float) -> float | None:
        """Return the seconds below which this share of the answered calls lie."""
        found = sorted(self.latencies)
        return found[min(len(found) - 1, int(len(found) * share))] if found else None


class Effect(NamedTuple):
    """What an event did to the callers.

    Args:
        noticed: Seconds until no driver called the first victim any more; `None`: it was called on.
        disturbed: Seconds until the last call that was slow or failed has ended; 0: there is none.
        before: Calls of the first victim in the second before, as a share of what it is due.
        back: Seconds from the end of the fault until the victim gets half of what it is due;
            infinite: it has not until the end of the day.
        p99: Seconds, of the slowest in a hundred from the begin to the end of the fault.
        failed: Calls that could have been made again, and failed.
        broken: Calls that could not have been made again, and failed.
        work: Calls of the overload that were answered, per second.
    """

    noticed: float | None
    disturbed: float
    before: float | None
    back: float | None
    p99: float
    failed: int
    broken: int
    work: float


@dataclass
class Found:
    """Everything that is known about a day.

    Attributes:
        seconds: Each second of the load.
        by_shape: How many calls of each shape ended in each way.
        failed: Idempotent calls that failed while a healthy replica existed.
        excused: Those that failed while there was none.
        own: Those that failed while their driver was late.
        wrong: Calls with an answer, an item or a session that is not theirs.
        others: All other failures.
        twice: Calls that were executed more than once.
        lost: Answered calls that were not executed.
        pauses: When a driver was late, and by how many seconds.
        effects: What each event did.
        alive: When how many replicas of ``stock`` were healthy.
        driver_cpu: Seconds of processor time of each driver.
        left_out: Calls that were not made because their driver was late.
    """

    seconds: list[Second]
    by_shape: dict[str, Counter[int]]
    failed: list[Failure] = field(default_factory=list)
    excused: list[Failure] = field(default_factory=list)
    own: list[Failure] = field(default_factory=list)
    wrong: list[Failure] = field(default_factory=list)
    others: list[Failure] = field(default_factory=list)
    twice: int = 0
    lost: int = 0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    alive: list[tuple[float, int]] = field(default_factory=list)
    driver_cpu: list[float] = field(default_factory=list)
    left_out: int = 0

    @property
    def calls(self) -> int:
        """All calls."""
        return sum(counts.total() for counts in self.by_shape.values())

    @property
    def is_good(self) -> bool:
        """Whether nothing has happened that must not."""
        return not (self.failed or self.wrong or self.twice or self.lost)


class _Call(NamedTuple):
    at: float
    took: float
    shape: int
    outcome: int
    late: float
    number: int

    @property
    def driver(self) -> int:
        """Number of the driver that has made it."""
        return self.number // SERIALS

    def is_of(self, happening: Happening) -> bool:
        """Whether it has ended, or has become slow, in the time of an event."""
        return happening.begin <= self.at + min(self.took, _SLOW) < happening.end


def read_day(
    directory: Path,
    happenings: Sequence[Happening],
    health: Sequence[tuple[float, str, bool]],
    drivers: int,
) -> Found:
    """Return what the files in a directory say.

    Args:
        directory: Where drivers and replicas wrote.
        happenings: The events.
        health: When which replica became healthy or not.
        drivers: How many drivers call all the time; later ones are for an overload.
    """
    calls = sorted(_calls(directory))
    found = Found([Second() for _ in range(int(calls[-1].at) + 1)], defaultdict(Counter))
    acknowledged: set[int] = set()
    for call in calls:
        second = found.seconds[int(call.at)]
        found.by_shape[_NAMES[call.shape]][call.outcome] += 1
        if call.shape == _WORK:
            second.work[call.outcome] += 1
            continue
        second.outcomes[call.outcome] += 1
        if call.outcome == Outcome.ANSWERED:
            second.latencies.append(call.took)
            if call.shape in _NOT_TWICE:
                acknowledged.add(call.number)
    executed = _executed(directory)
    found.twice = sum(count > 1 for count in executed.values())
    found.lost = len(acknowledged - executed.keys())
    found.alive = _alive(health, "stock-")
    reports = [json.loads(path.read_text()) for path in sorted(directory.glob("driver-*.json"))]
    found.driver_cpu = [report["cpu"] for report in reports]
    found.left_out = sum(report["left_out"] for report in reports)
    for report in reports:
        found.pauses += [(at, late) for at, late in report["pauses"]]
    none_healthy = _without(found.alive) + _without(_alive(health, "front-"))
    for report in reports:
        for error in report["errors"]:
            _judge(found, error, none_healthy, report["pauses"])
    loaded = [report for report in reports if report["number"] < drivers]
    watched = [report["changes"] for report in loaded]
    served = _Served([report["samples"] for report in loaded])
    pauses = {report["number"]: report["pauses"] for report in reports}
    found.effects = [_effect(calls, each, watched, served, found, pauses) for each in happenings]
    return found


def _calls(directory: Path) -> Iterable[_Call]:
    for path in directory.glob("calls-*.bin"):
        values = array("d", path.read_bytes())
        for i in range(0, len(values), FIELDS):
            at, took, shape, outcome, late, number = values[i : i + FIELDS]
            yield _Call(at, took, int(shape), int(outcome), late, int(number))


def _executed(directory: Path) -> Counter[int]:
    executed: Counter[int] = Counter()
    for path in directory.glob("*.ledger"):
        ids = array("Q", path.read_bytes())  # little-endian, as all that this runs on
        executed.update(ids)
    return executed


def _alive(health: Sequence[tuple[float, str, bool]], prefix: str) -> list[tuple[float, int]]:
    """Return when how many replicas of a service were healthy."""
    well: set[str] = set()
    found = []
    for at, name, healthy in health:
        if name.startswith(prefix):
            (well.add if healthy else well.discard)(name)
            found.append((at, len(well)))
    return found


def _without(alive: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Return the times without a healthy replica, after the first one was."""
    ends = [at for at, _ in alive[1:]] + [float("inf")]
    begun = next((i for i, (_, count) in enumerate(alive) if count), len(alive))
    return [
        (at, end)
        for (at, count), end in zip(alive[begun:], ends[begun:], strict=True)
        if count == 0
    ]


def _judge(
    found: Found,
    error: dict[str, Any],
    none_healthy: Sequence[tuple[float, float]],
    pauses: Sequence[tuple[float, float]],
) -> None:
    """Put a failed call where it belongs."""
    failure = Failure(
        error["at"],
        error["ended"],
        error["shape"],
        error["deadline"],
        error["outcome"],
        error["error"],
    )
    if failure.outcome == Outcome.WRONG.name:
        found.wrong.append(failure)
    elif failure.outcome != Outcome.FAILED.name:
        if failure.shape != "work":
            found.others.append(failure)
    elif any(begin <= failure.ended and failure.at <= end for begin, end in none_healthy):
        found.excused.append(failure)
        found.seconds[int(failure.at)].excused += 1
    elif _PAUSE <= sum(late for at, late in pauses if failure.at - late <= at <= failure.ended):
        found.own.append(failure)
        found.seconds[int(failure.at)].excused += 1
    else:
        found.failed.append(failure)


class _Served:
    """How many calls each replica was given, second by second.

    Args:
        samples: Of each driver: when it looked, and the calls of each replica so far.
    """

    def __init__(self, samples: Sequence[Sequence[tuple[float, dict[str, int]]]]) -> None:
        self._samples = samples
        self._times = [[at for at, _ in each] for each in samples]

    @property
    def end(self) -> float:
        """When the last look was."""
        return max((times[-1] for times in self._times if times), default=0.0)

    def share(self, key: str, at: float) -> float | None:
        """Return what a replica got in the second from `at` on; 1 is the mean of all replicas."""
        got: Counter[str] = Counter()
        for times, samples in zip(self._times, self._samples, strict=True):
            first, last = bisect_left(times, at), bisect_left(times, at + _WINDOW)
            if last >= len(samples):
                return None
            old, new = samples[first][1], samples[last][1]
            for name, count in new.items():
                before = old.get(name, 0)
                got[name] += count - before if count >= before else count  # a node that is new
        total = got.total()
        return got[key] * len(got) / total if total else 0.0

    def seconds_until_half(self, key: str, begin: float) -> float:
        """Return the seconds until a replica gets half of the mean in a second."""
        at = begin
        while (share := self.share(key, at)) is not None:
            if share >= _HALF:
                return at - begin
            at += _STEP
        return inf


def _effect(
    calls: Sequence[_Call],
    happening: Happening,
    watched: Sequence[Sequence[tuple[float, str, bool]]],
    served: _Served,
    found: Found,
    pauses: Mapping[int, Sequence[tuple[float, float]]],
) -> Effect:
    first = bisect_left(calls, (happening.begin - _SLOW,))
    last = bisect_left(calls, (happening.end,))
    bad = {Outcome.FAILED, Outcome.WRONG}
    disturbed = 0.0
    during: list[float] = []
    outcomes: Counter[int] = Counter()
    work = [call for call in calls[first:last] if call.shape == _WORK]
    worked = sum(call.outcome == Outcome.ANSWERED for call in work)
    for call in calls[first:last]:
        if call.shape == _WORK or not call.is_of(happening):
            continue
        outcomes[call.outcome] += 1
        if call.outcome in bad or call.took - _lateness(call, pauses) > _SLOW:
            disturbed = max(disturbed, call.at + call.took - happening.begin)
        if call.outcome == Outcome.ANSWERED and call.at <= happening.healed:
            during.append(call.took)
    during.sort()
    begin, healed, end = happening.begin, happening.healed, happening.end
    noticed = before = back = None
    if happening.victims:
        key = happening.victims[0]
        gone = [_first(changes, key, False, begin, end) for changes in watched]
        seen = [at for at in gone if at is not None]
        noticed = max(seen) - begin if seen else None
        before = served.share(key, begin - _WINDOW)
        back = served.seconds_until_half(key, healed)
    return Effect(
        noticed,
        disturbed,
        before,
        back,
        during[min(len(during) - 1, int(len(during) * 0.99))] if during else 0.0,
        sum(
            begin <= failure.at + min(failure.ended - failure.at, _SLOW) < end
            for failure in found.failed
        ),
        outcomes[Outcome.BROKEN],
        worked / max(1e-9, work[-1].at - work[0].at) if work else 0.0,
    )


def _lateness(call: _Call, pauses: Mapping[int, Sequence[tuple[float, float]]]) -> float:
    """Return the seconds of a slow call in which its driver was late itself; 0 for others."""
    if call.took <= _SLOW:
        return 0.0
    end = call.at + call.took
    of_driver = pauses.get(call.driver, ())
    return sum(late for at, late in of_driver if at < end and at + late > call.at)


def _first(
    changes: Sequence[tuple[float, str, bool]], key: str, ready: bool, begin: float, end: float
) -> float | None:
    """Return when a driver first saw that a replica may be called, or may not."""
    return next(
        (
            at
            for at, name, is_ready in changes
            if name == key and is_ready is ready and begin <= at < end
        ),
        None,
    )
