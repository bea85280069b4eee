"""Start and stop events of a server: functions, async functions or coroutines, run in order."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from rap.options import as_list

__all__ = ["Event", "check_events", "discard_events", "run_event", "run_stop_events"]

Event = Callable[[], Any] | Coroutine[Any, Any, Any]


def check_events(option: str, events: Iterable[Event]) -> list[Event]:
    """Return the events as a list.

    Raises:
        TypeError: An event is neither a coroutine nor callable; the message names `option`.
    """
    checked = as_list(option, events)
    for event in checked:
        if not (inspect.iscoroutine(event) or callable(event)):
            raise TypeError(
                f"{option} takes coroutines, async functions or functions, got {event!r}"
            )
    return checked


async def run_event(event: Event) -> None:
    """Run one event and wait for it."""
    result: Any = event if inspect.iscoroutine(event) else event()  # type: ignore[operator]  # a coroutine is awaited
    if isinstance(result, Awaitable):
        await result


async def run_stop_events(events: Iterable[Event], log: logging.Logger) -> None:
    """Run stop events; if one fails, the error is logged and the others run."""
    for event in events:
        try:
            await run_event(event)
        except Exception:  # of an event of the user
            log.exception("stop event %r failed", event)


def discard_events(events: Iterable[Event]) -> None:
    """Close coroutine objects that will never run, so that Python does not warn about them."""
    for event in events:
        if inspect.iscoroutine(event):
            event.close()
