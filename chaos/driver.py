"""The load: ``python -m chaos.driver PLAN AS JSON``, a process with one client of each service.

Calls begin at random times that are drawn beforehand, whatever became of earlier calls, and their
latency counts from these times. The driver writes what became of each call, when it saw replicas
come and go, and when it was late itself.
"""

import asyncio
import json
import sys
import time
from array import array
from enum import IntEnum
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import uvloop

from chaos.shapes import DEADLINES, SHAPES, BegunError, Calls, WrongAnswerError
from rap.client import Client
from rap.errors import CallError, Code

__all__ = ["FIELDS", "SERIALS", "Outcome", "Plan"]

FIELDS = 6  # numbers that are written for each call
_TICK = 0.001  # seconds between two looks at which calls are due
_LOOK = 0.02  # seconds between two looks at the replicas and at the own lateness
_SAMPLE = 0.25  # seconds between two looks at how many calls each replica got
_MOST_LATE = 2.0  # seconds; what was due before is left out, or a driver would never catch up
_LATE = 0.03  # seconds of own lateness that are written
_LINGER = 2.0  # seconds after the last deadline
_MAX_ERRORS = 20_000  # that are written with their text
SERIALS = 1 << 40  # calls of one driver
_SCRIPTED = "this replica answers with errors now"


class Plan(NamedTuple):
    """What a driver is told.

    Args:
        number: Which driver it is.
        registry: URL of the registry.
        seed: For its random times, shapes and deadlines.
        start: When second 0 is, on the monotonic clock.
        first: Second at which the load begins.
        seconds: How long it lasts, at most: it also ends with the standard input.
        rate: Calls per second.
        only: The one shape to call; empty: all of them by their shares.
        directory: Where to write.
    """

    number: int
    registry: str
    seed: int
    start: float
    first: float
    seconds: float
    rate: float
    only: str
    directory: str


class Outcome(IntEnum):
    """What became of a call."""

    ANSWERED = 0
    FAILED = 1  # and it could have been made again
    BROKEN = 2  # and it could not have been made again: not idempotent, or begun
    WRONG = 3  # an answer, item or session of another call, or items lost or doubled
    SCRIPTED = 4  # a handler raised what it was told to raise
    REFUSED = 5  # the service is overloaded


class _Driver:
    def __init__(self, plan: Plan, stock: Client, front: Client) -> None:
        self._plan = plan
        self._stock = stock
        self._rng = Random(plan.seed)
        self._calls = Calls(stock, front, Random(plan.seed + 1)).by_shape
        self._rows = array("d")
        self._errors: list[dict[str, Any]] = []
        self._changes: list[tuple[float, str, bool]] = []
        self._pauses: list[tuple[float, float]] = []
        self._samples: list[tuple[float, dict[str, int]]] = []
        self._serial = plan.number * SERIALS
        self._left_out = 0

    async def run(self) -> None:
        plan, now = self._plan, time.monotonic
        tasks: set[asyncio.Task[None]] = set()
        create_task = asyncio.get_running_loop().create_task
        watching = create_task(self._watch())
        weights = [shape.share for shape in SHAPES]
        shapes = range(len(SHAPES))
        only = [shape.name for shape in SHAPES].index(plan.only) if plan.only else None
        due, end = plan.first, plan.first + plan.seconds
        rng = self._rng
        due += rng.expovariate(plan.rate)
        stop = asyncio.ensure_future(_input_ended())
        while due < end and not stop.done():
            passed = now() - plan.start
            if due < passed - _MOST_LATE:
                self._left_out += int((passed - due) * plan.rate)
                due = passed
            while due <= passed and due < end:
                shape = rng.choices(shapes, weights)[0] if only is None else only
                deadline = rng.choice(DEADLINES) if only is None else DEADLINES[0]
                task = create_task(self._one(shape, due, deadline))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += rng.expovariate(plan.rate)
            await asyncio.sleep(max(_TICK, due - passed))
        stop.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=max(DEADLINES) + _LINGER)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        watching.cancel()

    async def _one(self, shape: int, due: float, deadline: float) -> None:
        self._serial = serial = self._serial + 1
        begun = time.monotonic() - self._plan.start
        outcome, error = Outcome.ANSWERED, None
        try:
            await self._calls[shape](serial, deadline)
        except asyncio.CancelledError:
            outcome, error = Outcome.WRONG, "it never ended"
        except Exception as exc:
            outcome, error = _outcome_of(exc, shape), f"{type(exc).__name__}: {exc}"
        ended = time.monotonic() - self._plan.start
        self._rows.extend((due, ended - due, shape, outcome, begun - due, serial))
        if error is not None and len(self._errors) < _MAX_ERRORS:
            self._errors.append(
                {
                    "at": due,
                    "ended": ended,
                    "shape": SHAPES[shape].name,
                    "deadline": deadline,
                    "outcome": outcome.name,
                    "error": error,
                    "id": serial,
                }
            )

    async def _watch(self) -> None:
        """Note which replicas may be called, and how late this process is."""
        cluster = self._stock.cluster
        start, now = self._plan.start, time.monotonic
        seen: Any = None
        keys: set[str] = set()
        before = sampled = now()
        while True:
            await asyncio.sleep(_LOOK)
            at = now()
            if at - sampled >= _SAMPLE:
                sampled = at
                self._samples.append((at - start, dict(cluster.attempts_by_node())))
            if at - before - _LOOK > _LATE:
                self._pauses.append((before - start, at - before - _LOOK))
            before = at
            if cluster.ready is seen:
                continue
            seen = cluster.ready
            found = {node.key for node in seen}
            self._changes += [(at - start, key, True) for key in found - keys]
            self._changes += [(at - start, key, False) for key in keys - found]
            keys = found

    def write(self) -> None:
        """Write everything."""
        directory, number = Path(self._plan.directory), self._plan.number
        with (directory / f"calls-{number}.bin").open("wb") as file:
            self._rows.tofile(file)
        found = {
            "number": number,
            "errors": self._errors,
            "changes": self._changes,
            "pauses": self._pauses,
            "samples": self._samples,
            "left_out": self._left_out,
            "cpu": time.process_time(),
        }
        (directory / f"driver-{number}.json").write_text(json.dumps(found))


async def _input_ended() -> None:
    """Return when the standard input has ended."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def _outcome_of(error: Exception, shape: int) -> Outcome:
    if isinstance(error, WrongAnswerError):
        return Outcome.WRONG
    if isinstance(error, BegunError):
        return Outcome.BROKEN
    if isinstance(error, CallError):
        if error.code is Code.DATA_LOSS:
            return Outcome.WRONG
        if _SCRIPTED in error.message and error.code is not Code.UNAVAILABLE:
            return Outcome.SCRIPTED
        if SHAPES[shape].name == "work" and error.code is Code.RESOURCE_EXHAUSTED:
            return Outcome.REFUSED
    return Outcome.FAILED if SHAPES[shape].is_idempotent else Outcome.BROKEN


async def _main(plan: Plan) -> None:
    async with (
        Client(service="stock", registry=plan.registry) as stock,
        Client(service="front", registry=plan.registry) as front,
    ):
        driver = _Driver(plan, stock, front)
        print("ready", flush=True)
        try:
            await driver.run()
        finally:
            driver.write()
    print("done", flush=True)


def main() -> None:
    """Drive until the plan is over."""
    plan = Plan(*json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(plan))


if __name__ == "__main__":
    main()
