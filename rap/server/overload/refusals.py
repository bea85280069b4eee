"""Refuses calls of an overloaded server, counts them, and says so in the log."""

import asyncio
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from math import inf
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
_WARNING = "overloaded: %d calls were refused since the last such line (%s; by reason: %s): %s"
_BUSY = "add servers, make these functions cheaper, or let clients call less"
# What helps, by the most common reason.
_ADVICE = {
    "queue": _BUSY,
    "late": _BUSY,
    "threads": "raise threads if these functions wait for something, else add servers",
    "limit": "find what these functions wait for, such as a database, and give it more capacity",
    "max_concurrency": "raise max_concurrency, or add servers",
}


class Refused(Protocol):
    """A call that is refused."""

    conn: Any
    handler: Any

    @property
    def method(self) -> str:
        """The function, as ``/group/name``."""
        ...


class _Form:
    """The refusals of one function, priority and reason that name the same seconds.

    Args:
        call: One of the calls.
        priority: Index of its name in `PRIORITIES`.
        why: The reason.
        step: Index in `_STEPS`.

    Attributes:
        body: Body of the Reset, packed.
        count: Number of refusals.
        least, most: Seconds that the calls would wait.
        name: Reason, function and priority.
    """

    __slots__ = ("body", "count", "handler", "least", "most", "name", "priority", "why")

    def __init__(self, call: Refused, priority: int, why: str, step: int) -> None:
        self.least = _STEPS[step - 1] if step else -inf
        self.most = _STEPS[step] if step < len(_STEPS) else inf
        error = overload_error(why, min(self.most, _STEPS[-1]))
        self.body = reset_body(error.code, str(error), error.details)
        self.count = 0
        self.handler = call.handler
        self.name = why, call.method, PRIORITIES[priority]
        self.priority = priority
        self.why = why


class Refusals:
    """Counts and logs the calls that a server refuses because it is overloaded.

    Args:
        log: Logger of the server.
        loop: The event loop of the server.
    """

    def __init__(self, log: logging.Logger, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop
        self._forms: dict[tuple[str, str, int, int], _Form] = {}
        self._last: _Form | None = None  # the next refusal is likely to be alike
        self._timer: asyncio.TimerHandle | None = None
        self._log_pace = Pace(_LOG_PAUSE, loop.time)
        self._logged: Counter[tuple[str, str, str]] = Counter()

    @property
    def counts(self) -> Counter[tuple[str, str, str]]:
        """Number of refused calls by reason, function and priority."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for form in self._forms.values():
            counts[form.name] += form.count
        return counts

    def refuse(self, call: Refused, priority: int, why: str, wait: float) -> None:
        """Refuse a call by a Reset that tells its client when to call again.

        Args:
            call: The call; no handler has begun.
            priority: Index of its name in `PRIORITIES`.
            why: The reason.
            wait: Seconds that a call like this one would wait.
        """
        form = self._last
        if (
            form is None
            or form.handler is not call.handler
            or not form.least < wait <= form.most
            or form.priority != priority
            or form.why != why
        ):
            form = self._last = self._form(call, priority, why, wait)
        form.count += 1
        if self._timer is None:
            self._warn_soon()
        call.conn.refuse(call, form.body)

    def count(self, call: Refused, priority: int, why: str) -> None:
        """Count a call that is refused in another way."""
        self._form(call, priority, why, 0.0).count += 1
        if self._timer is None:
            self._warn_soon()

    def _form(self, call: Refused, priority: int, why: str, wait: float) -> _Form:
        step = bisect_left(_STEPS, wait)
        key = why, call.method, priority, step
        form = self._forms.get(key)
        if form is None or form.handler is not call.handler:
            count = 0 if form is None else form.count
            form = self._forms[key] = _Form(call, priority, why, step)
            form.count = count
        return form

    def _warn_soon(self) -> None:
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
        counts = self.counts
        new = counts - self._logged
        self._logged = counts
        functions: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for (why, method, _), count in new.items():
            functions[method] += count
            reasons[why] += count
        advice = _ADVICE[max(reasons, key=reasons.__getitem__)] if reasons else _BUSY
        self._log.warning(_WARNING, new.total(), _names(functions), _names(reasons), advice)


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
