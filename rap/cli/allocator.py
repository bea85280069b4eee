"""Settings of the C library's allocator for programs that pass large messages.

glibc gives blocks above a threshold back to the kernel as soon as they are freed, so every large
message is built in pages that the kernel must map and clear again: 90 to 310 page faults a MiB
were measured, half of the time of an echo of 1 MiB. With these settings freed memory is kept. The
price is that a process stays as large as it once was, so this is for programs, not for a library.
"""

import ctypes

__all__ = ["keep_freed_memory"]

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
