"""Exceptions whose tracebacks take long to write, cut down before they are written.

The standard library shows at most 15 exceptions of a group, but reads the traceback of each: 0.2 s
for a thousand of them. A recursion without end has a thousand calls, which take 70 ms. A caller may
bring about either, and the event loop would stand still meanwhile.
"""

from types import TracebackType
from typing import Any

__all__ = ["compact"]

_EXCEPTIONS = 16  # in groups and before one another, all together
_CALLS = 256  # of all of them
_FIRST, _LAST = 8, 24  # calls of each that are kept


def compact(exc: BaseException) -> BaseException:
    """Return an exception whose traceback is soon written.

    It is the given one, unless that has too many exceptions in it or before it, or too many calls.
    Otherwise it is another one of the same name and text. Its notes say what was left out.
    """
    return exc if _is_small(exc) else _Outline().of(exc)


def _is_small(exc: BaseException) -> bool:
    calls, left, seen = 0, [exc], set[int]()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        calls += _count(each.__traceback__, _CALLS)
        if len(seen) > _EXCEPTIONS or calls > _CALLS:
            return False
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions[: _EXCEPTIONS + 1]
        left += [it for it in (each.__cause__, each.__context__) if it is not None]
    return True


class _Outline:
    """Makes the exceptions of one traceback, as long as there may be more."""

    def __init__(self) -> None:
        self._left = _EXCEPTIONS

    def of(self, exc: BaseException) -> BaseException:
        self._left -= 1
        notes = [str(note) for note in getattr(exc, "__notes__", ())]
        inner: list[BaseException] = []
        if isinstance(exc, BaseExceptionGroup):
            while len(inner) < len(exc.exceptions) and self._left > 0:
                inner.append(self.of(exc.exceptions[len(inner)]))
            if len(inner) < len(exc.exceptions):
                notes.append(f"({len(exc.exceptions) - len(inner):,} more are left out)")
        made = _named_as(exc, inner)
        made.__traceback__, without = _shortened(exc.__traceback__)
        if without:
            notes.append(f"({without:,} calls in the middle of the traceback are left out)")
        before = _before(exc)
        if before is not None and self._left == 1:
            before, between = _first_of(before)
            if between:
                notes.append(f"({between:,} exceptions between it and the first are left out)")
        if before is not None and self._left > 0:
            if exc.__cause__ is None:
                made.__context__ = self.of(before)
            else:
                made.__cause__ = self.of(before)
        elif before is not None:
            notes.append("(the exceptions before it are left out)")
        for note in notes:
            made.add_note(note)
        return made


def _before(exc: BaseException) -> BaseException | None:
    """Return the exception that a traceback shows before another one."""
    if exc.__cause__ is None and not exc.__suppress_context__:
        return exc.__context__
    return exc.__cause__


def _first_of(exc: BaseException) -> tuple[BaseException, int]:
    """Return the first exception of those before one, and how many come after it."""
    count, seen = 0, {id(exc)}
    while (before := _before(exc)) is not None and id(before) not in seen:
        seen.add(id(before))
        exc = before
        count += 1
    return exc, count


def _named_as(exc: BaseException, inner: list[BaseException]) -> BaseException:
    """Return an exception that a traceback shows as another one, with others in it."""
    kind = type(exc)
    try:
        text = str(exc)
    except Exception:  # of a user's `__str__`
        text = "<exception str() failed>"
    names: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__str__": lambda _: text,
    }
    if inner:
        group: BaseException = type(kind.__name__, (BaseExceptionGroup,), names)(text, inner)
        return group
    alone: BaseException = type(kind.__name__, (BaseException,), names)(text)
    return alone


def _shortened(trace: TracebackType | None) -> tuple[TracebackType | None, int]:
    """Return a traceback without the calls in its middle, and how many these are."""
    calls: list[TracebackType] = []
    while trace is not None:
        calls.append(trace)
        trace = trace.tb_next
    without = len(calls) - _FIRST - _LAST
    if without > 0:
        del calls[_FIRST : _FIRST + without]
    made: TracebackType | None = None
    for each in reversed(calls):
        made = TracebackType(made, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return made, max(0, without)


def _count(trace: TracebackType | None, most: int) -> int:
    """Return the number of calls in a traceback, or one more than `most`."""
    count = 0
    while trace is not None and count <= most:
        count += 1
        trace = trace.tb_next
    return count
