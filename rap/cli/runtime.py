"""What programs set up before they run: the event loop and the allocator.

No other module imports uvloop, which answers a call in about 80 % of the time of asyncio's own
loop. It is chosen by a loop factory, because a policy would change every loop in the process.
"""

import asyncio
from collections.abc import Callable
from typing import Literal, cast, get_args

__all__ = ["LOOPS", "Loop", "keep_freed_memory", "loop_factory"]

Loop = Literal["auto", "asyncio", "uvloop"]
LOOPS: tuple[str, ...] = get_args(Loop)

_MIB = 1 << 20
# Names and numbers of malloc.h; mallopt(3) describes them.
_MALLOC_OPTIONS = {
    "M_MMAP_THRESHOLD": (-3, 32 * _MIB),  # the largest value that 64-bit glibc takes
    "M_TRIM_THRESHOLD": (-1, 256 * _MIB),
    "M_TOP_PAD": (-2, 16 * _MIB),
}


def loop_factory(loop: str = "auto") -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return a factory of event loops for `asyncio.Runner`; `None` stands for asyncio's own.

    Args:
        loop: One of `LOOPS`; ``auto`` is uvloop if it is installed, else asyncio.

    Raises:
        ValueError: `loop` is not one of `LOOPS`.
        ImportError: `loop` is ``uvloop``, which is not installed.
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


def keep_freed_memory() -> bool:
    """Tell the allocator to keep freed memory; call it when a program starts.

    Returns:
        Whether it was done: only glibc has these settings.
    """
    import ctypes  # only programs that ask for this need it

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    done = [mallopt(number, value) for number, value in _MALLOC_OPTIONS.values()]
    return all(done)
