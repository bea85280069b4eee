"""Row 34: the time that the dearest known inputs take, per byte, at each entry point."""

import time
from collections.abc import Callable, Iterator

from faults.scenario import Measured, Scale, Scenario
from rap.schema.function import decode_any
from rap.wire.codec import MAX_ELEMENTS, pack, unpack
from rap.wire.frames import read_go_away, read_reset
from rap.wire.hello import decode_hello
from rap.wire.load_report import read_load

__all__ = ["SCENARIOS", "colliding_arrays", "cost"]

_KEYS = 24_000  # arrays of two integers, with all that MAX_ELEMENTS allows
_MOST = 1.0  # microseconds for a byte
_TRIES = 3
_MASK, _P1, _P2, _P5 = (
    (1 << 64) - 1,
    11400714785074694791,
    14029467366897019727,
    2870177450012600261,
)


async def costs(scale: Scale) -> Measured:
    """Decode what is cheap to send."""
    found = sorted(
        ((cost(entry, data), f"{name} in a {where}") for where, entry, name, data in _inputs()),
        reverse=True,
    )
    dearest, what = found[0]
    text = f"{len(found)} inputs, the dearest takes {dearest:.2f} us per byte: {what}"
    return Measured(text, dearest <= _MOST)


def cost(entry: Callable[[bytes], object], data: bytes) -> float:
    """Return the microseconds per byte that an entry point takes, accepted or refused."""
    took = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        try:
            entry(data)
        except Exception:  # most are refused
            pass
        took.append(time.perf_counter() - began)
    return min(took) * 1e6 / len(data)


def colliding_arrays(n: int) -> bytes:
    """Return a map whose keys are arrays with the same hash.

    The hash of a tuple is xxHash with constants of CPython, and each of its rounds can be inverted.
    """
    target = _rotated(0x1234567 * pow(_P1, -1, 1 << 64) & _MASK, 33)
    inverse = pow(_P2, -1, 1 << 64)
    keys: list[bytes] = []
    first = 0
    while len(keys) < n:
        first += 1
        state = _rotated(_P5 + first * _P2 & _MASK, 31) * _P1 & _MASK
        second = (target - state) * inverse & _MASK
        second -= 1 << 64 if second >> 63 else 0
        if abs(second) < 2**61 - 1 and second != -1:
            keys.append(pack([first, second]))
    return b"\xdf" + n.to_bytes(4, "big") + b"".join(key + b"\xc0" for key in keys)


def _rotated(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & _MASK


def _inputs() -> Iterator[tuple[str, Callable[[bytes], object], str, bytes]]:
    """Yield where an input arrives, what decodes it, what it is, and its bytes."""
    arrays = colliding_arrays(_KEYS)
    numbers = [float(n) for n in range(MAX_ELEMENTS // 2)]
    maps = b"\xdd" + (MAX_ELEMENTS - 1).to_bytes(4, "big") + b"\x80" * (MAX_ELEMENTS - 1)
    bodies = {
        "arrays that collide as keys": arrays,
        "63 of them in each map": b"\xdc\x01\x00" + colliding_arrays(63) * 256,
        "numbers as keys": b"\xdf"
        + len(numbers).to_bytes(4, "big")
        + b"".join(pack(n) + b"\xc0" for n in numbers),
        "empty maps": maps,
        "texts": pack(["x" * 8] * (MAX_ELEMENTS - 1)),
    }
    entries: dict[str, Callable[[bytes], object]] = {
        "body": decode_any,
        "header": unpack,
        "Hello": decode_hello,
        "GoAway": read_go_away,
        "Reset": read_reset,
        "Load": read_load,
    }
    for where, entry in entries.items():
        for name, data in bodies.items():
            yield where, entry, name, data


SCENARIOS = (Scenario(34, "inputs that are expensive to decode", "<= 1 us per byte", costs),)
