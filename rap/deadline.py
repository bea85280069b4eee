"""A deadline: a point on the monotonic clock; on the wire only the time that remains.

Inside rap a deadline is a plain float of seconds on `Clock.monotonic`, `NEVER` when there is
none. It travels as remaining milliseconds, so the clocks of two hosts never matter.
"""

from math import inf

from rap.clock import Clock

__all__ = ["MAX_TIMEOUT_MS", "NEVER", "check_timeout", "deadline_after", "remaining_ms"]

NEVER = inf
MAX_TIMEOUT_MS = 2**32 - 1


def check_timeout(name: str, value: float | None) -> float | None:
    """Return `value`, seconds or `None` for no limit.

    Raises:
        ValueError: It is not a positive number; the message names the option.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number of seconds or None, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, got {value!r}")
    return value


def deadline_after(seconds: float | None, clock: Clock) -> float:
    """Return the deadline `seconds` from now; `NEVER` for `None`."""
    return NEVER if seconds is None else clock.monotonic() + seconds


def remaining_ms(deadline: float, now: float) -> int:
    """Return milliseconds left, as sent on the wire: 0 stands for no deadline, 1 is the least."""
    if deadline == NEVER:
        return 0
    return max(1, min(int((deadline - now) * 1000.0), MAX_TIMEOUT_MS))
