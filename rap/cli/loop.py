"""The event loop that programs run on, and the only module that imports uvloop.

uvloop answers a call in about 80 % of the time of asyncio's own loop. It is chosen by a loop
factory: a policy would change the loops of everybody in the process.
"""

import asyncio
from collections.abc import Callable
from typing import Literal, cast, get_args

__all__ = ["LOOPS", "Loop", "loop_factory"]

Loop = Literal["auto", "asyncio", "uvloop"]
LOOPS: tuple[str, ...] = get_args(Loop)


def loop_factory(loop: str = "auto") -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop, for `asyncio.Runner`; `None` for asyncio's own.

    Args:
        loop: ``auto`` is uvloop where it is installed, else asyncio.

    Raises:
        ValueError: `loop` is none of `LOOPS`.
        ImportError: uvloop was asked for and is not installed.
    """
    if loop not in LOOPS:
        raise ValueError(f"loop must be one of {', '.join(LOOPS)}, got {loop!r}")
    if loop == "asyncio":
        return None
    try:
        import uvloop
    except ModuleNotFoundError as exc:
        if loop == "auto":
            return None
        raise ImportError("loop 'uvloop' needs uvloop: install rap[fast]", name="uvloop") from exc
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)
