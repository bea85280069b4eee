"""Refuses calls of an overloaded server, counts them, and says so in the log."""

import asyncio
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from rap.call import PRIORITIES, PRIORITY
from rap.clock import Pace
from rap.errors import ResourceExhausted
from rap.wire.frames import reset_body

__all__ = ["Refusals", "Refused", "overload_error", "priority_of", "retry_after"]

_LOG_PAUSE = 10.0  # seconds between two warnings
_LOG_DELAY = 1.0  # seconds for which the first warning waits, so that it names what is refused
_MAX_NAMES = 3  # functions that a warning names
# Seconds after which a client may call again. A refusal has one of these, so that few bodies are
# packed.
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_WHY = {
    "queue": "the server is overloaded: the call would wait too long for its turn",
    "late": "the server is overloaded: the call has waited too long for its turn",
    "threads": "the server is overloaded: the call would wait too long for a thread",
    "limit": "the server is overloaded: as many calls of the function run as end in time",
    "max_concurrency": "as many calls run as max_concurrency allows",
}
_WARNING = (
    "overloaded: %d calls were refused since the last such line (%s; by reason: %s): add servers,"
    " make these functions cheaper, or let clients call less"
)


class Refused(Protocol):
    """A call that is refused."""

    conn: Any

    @property
    def method(self) -> str:
        """The function, as ``/group/name``."""
        ...


class Refusals:
    """Counts and logs the calls that a server refuses because it is overloaded.

    Args:
        log: Logger of the server.
        loop: The event loop of the server.

    Attributes:
        counts: Number of refused calls by reason, function and priority.
    """

    def __init__(self, log: logging.Logger, loop: asyncio.AbstractEventLoop) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self._log = log
        self._loop = loop
        self._bodies: dict[tuple[str, int], bytes] = {}  # by reason and step
        self._timer: asyncio.TimerHandle | None = None
        self._log_pace = Pace(_LOG_PAUSE, loop.time)
        self._logged: Counter[tuple[str, str, str]] = Counter()

    def refuse(self, call: Refused, priority: int, why: str, wait: float) -> None:
        """Refuse a call by a Reset that tells its client when to call again.

        Args:
            call: The call; no handler has begun.
            priority: Index of its name in `PRIORITIES`.
            why: The reason.
            wait: Seconds that a call like this one would wait.
        """
        self.count(call, priority, why)
        key = why, bisect_left(_STEPS, wait)
        body = self._bodies.get(key)
        if body is None:
            error = overload_error(why, retry_after(wait))
            body = self._bodies[key] = reset_body(error.code, str(error), error.details)
        call.conn.refuse(call, body)

    def count(self, call: Refused, priority: int, why: str) -> None:
        """Count a call that is refused in another way."""
        self.counts[why, call.method, PRIORITIES[priority]] += 1
        if self._timer is None:
            pause = max(_LOG_DELAY, self._log_pace.left)
            self._timer = self._loop.call_later(pause, self._warn)

    def close(self) -> None:
        """Say what was not said yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._warn()

    def _warn(self) -> None:
        """Name the functions of the calls that were refused since the last warning."""
        self._timer = None
        self._log_pace.begin()
        new = self.counts - self._logged
        self._logged = self.counts.copy()
        functions: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for (why, method, _), count in new.items():
            functions[method] += count
            reasons[why] += count
        self._log.warning(_WARNING, new.total(), _names(functions), _names(reasons))


def retry_after(wait: float) -> float:
    """Return the seconds after which a client may call again that was refused."""
    return _STEPS[min(bisect_left(_STEPS, wait), len(_STEPS) - 1)]


def overload_error(why: str, seconds: float) -> ResourceExhausted:
    """Return the error of a call that is refused; see `Refusals.refuse`."""
    details = {"limit": why, "retry_after": seconds}
    return ResourceExhausted(_WHY[why], details=details, unserved=True)


def priority_of(header: Mapping[str, Any], default: int) -> int:
    """Return the priority of a call with this header; an unknown value is ignored."""
    name = header.get(PRIORITY)
    return default if name is None or name not in PRIORITIES else PRIORITIES.index(name)


def _names(counts: Counter[str]) -> str:
    texts = [f"{name}: {count}" for name, count in counts.most_common(_MAX_NAMES)]
    more = [f"and {len(counts) - _MAX_NAMES} more"] if len(counts) > _MAX_NAMES else []
    return ", ".join(texts + more)
