"""The event loop that programs run on, and the only module that imports uvloop.

uvloop answers a call in about 80 % of the time of asyncio's own loop. It is chosen by a loop
factory: a policy would change the loops of everybody in the process.
"""

import asyncio
import ctypes
from collections.abc import Callable
from typing import Literal, cast, get_args

__all__ = ["LOOPS", "Loop", "keep_freed_memory", "loop_factory"]


_MIB = 1 << 20
# Names and numbers of malloc.h; mallopt(3) says what they do.
_OPTIONS = {
    "M_MMAP_THRESHOLD": (-3, 32 * _MIB),  # the largest value that 64-bit glibc takes
    "M_TRIM_THRESHOLD": (-1, 256 * _MIB),
    "M_TOP_PAD": (-2, 16 * _MIB),
}


def keep_freed_memory() -> bool:
    """Tell the allocator to keep what is freed; at the start of a program.

    Returns:
        Whether it was done: only glibc has these settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    done = [mallopt(number, value) for number, value in _OPTIONS.values()]
    return all(done)


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
