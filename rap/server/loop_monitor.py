"""Names the handler that holds the event loop.

A handler that blocks without `await` stops every call of the server, and no code of the loop can
say so while it does. A timer of the loop notes the time, and a thread checks whether the timer is
late. Calls pass neither of them.
"""

import asyncio
import logging
import selectors
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from types import FrameType
from typing import Any

from rap.call import current
from rap.clock import Pace
from rap.server.dispatch import ServerStream

__all__ = ["LoopMonitor"]

_MAX_INTERVAL = 0.25  # seconds between two notes of the time
_LOG_PAUSE = 60.0  # seconds between two lines in the log
_STILL = 5.0  # seconds after which a holder is named while it still holds the loop
_ADVICE = "wait with `await`, or block in a thread: in a `def` handler, or by asyncio.to_thread"
_MAX_FRAMES = 20
_OTHER = "other"  # label of what is not a handler
_DISPATCH = ServerStream.__module__


class LoopMonitor:
    """A thread that notices when the event loop of a server does not run.

    Args:
        threshold: Seconds that the loop may be held; 0 turns the monitor off.
        log: Logger of the server.

    Attributes:
        blocks: How often the loop was held longer, by method; `other` is what is not a handler.
        seconds: For how many seconds in all, by method.
    """

    def __init__(self, threshold: float, log: logging.Logger) -> None:
        self.blocks: Counter[str] = Counter({_OTHER: 0})
        self.seconds: dict[str, float] = {_OTHER: 0.0}
        self._threshold = threshold
        self._interval = min(threshold / 4, _MAX_INTERVAL)
        self._log = log
        self._due = 0.0  # when the loop should note the time next
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._base: int | None = None  # id of the frame in which the loop runs, if it shows none
        self._log_pace = Pace(_LOG_PAUSE, time.monotonic)

    def start(self) -> None:
        """Watch the running loop until `stop`."""
        if not self._threshold:
            return
        loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._due = time.monotonic() + self._interval
        self._timer = loop.call_later(self._interval, self._beat, loop)
        args = (loop, threading.get_ident(), self._stopped)
        name = "rap loop monitor"
        try:
            threading.Thread(target=self._watch, args=args, name=name, daemon=True).start()
        except RuntimeError as exc:  # the machine has too many threads
            self._log.warning("no thread watches the event loop: %s", exc)

    def stop(self) -> None:
        """End the thread. Idempotent."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note the time, on the loop."""
        if self._base is None and not isinstance(loop, asyncio.BaseEventLoop):
            self._base = id(sys._getframe(1))
        self._due = time.monotonic() + self._interval
        self._timer = loop.call_later(self._interval, self._beat, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop, ident: int, stopped: threading.Event) -> None:
        """Look at the time, in the thread."""
        while not stopped.wait(self._interval) and not loop.is_closed():
            due = self._due
            if time.monotonic() - due < self._threshold or not loop.is_running():
                continue
            frame = sys._current_frames().get(ident)
            if frame is None or self._is_idle(frame):  # the whole process was stopped for a while
                continue
            method, holder = _holder(frame, loop)
            stack = _stack(frame)
            del frame
            was_told = False
            while self._due == due and loop.is_running() and not stopped.wait(self._interval):
                held = time.monotonic() - due
                if held >= _STILL and not was_told:
                    was_told = True
                    text = "%s has held the event loop for %.1f s, and still does%s"
                    self._tell(text, holder, held, stack)
            held = max(
                0.0, (self._due - self._interval if self._due != due else time.monotonic()) - due
            )
            if not was_told:
                self._tell("%s held the event loop for %.1f s%s", holder, held, stack)
            self.seconds[method] = self.seconds.get(method, 0.0) + held
            self.blocks[method] += 1  # last: who sees the count finds the line and the seconds

    def _is_idle(self, frame: FrameType) -> bool:
        """Return whether the loop waits for events."""
        return frame.f_code.co_filename == selectors.__file__ or id(frame) == self._base

    def _tell(self, text: str, holder: str, held: float, stack: str) -> None:
        """Log a line, at most once a minute."""
        if not self._log_pace.allow():
            return
        more = self._log_pace.take_skipped()
        before = f" (and {more} times since the last such line)" if more else ""
        self._log.warning(f"{text}; {_ADVICE}; it was here:\n%s", holder, held, before, stack)


def _holder(frame: FrameType, loop: asyncio.AbstractEventLoop) -> tuple[str, str]:
    """Return the method and a name of what runs on the loop."""
    inner: FrameType | None = frame
    while inner is not None:
        if inner.f_globals.get("__name__") == _DISPATCH:
            method = _method_of(inner.f_locals.get("stream"))
            if method is not None:
                return method, f"handler {method}"
        inner = inner.f_back
    task = asyncio.current_task(loop)
    if task is None:
        return _OTHER, "a callback"
    # From 3.12 on, this names the handler that has started the task.
    context: Mapping[Any, Any] = getattr(task, "get_context", dict)()
    method = _method_of(context.get(current))
    if method is not None:
        return method, f"task {task.get_name()!r} of handler {method}"
    return _OTHER, f"task {task.get_name()!r}"


def _method_of(stream: object) -> str | None:
    if isinstance(stream, ServerStream) and hasattr(stream, "handler"):
        return stream.method
    return None


def _stack(frame: FrameType) -> str:
    """Return the stack as in a traceback, from the callback of the loop on."""
    found = []
    for each, line in traceback.walk_stack(frame):
        if each.f_code.co_filename == asyncio.events.__file__:
            break
        found.append((each, line))
    summary = traceback.StackSummary.extract(iter(found[:_MAX_FRAMES][::-1]))
    return "".join(summary.format()).rstrip()
