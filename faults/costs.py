"""Row 34: the time that the dearest known inputs take, per byte, at each entry point."""

import time
from collections.abc import Callable, Iterable, Iterator

from faults.colliding import colliding_tuples
from faults.scenario import Measured, Scale, Scenario
from rap.schema.function import decode_any
from rap.wire.codec import MAX_ELEMENTS, pack, unpack
from rap.wire.frames import read_go_away, read_reset
from rap.wire.hello import decode_hello
from rap.wire.load_report import read_load

__all__ = ["SCENARIOS", "cost", "map_of"]

_KEYS = 24_000  # arrays of two integers, with all that MAX_ELEMENTS allows
_MOST = 1.0  # microseconds for a byte
_TRIES = 3


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


def map_of(keys: Iterable[object]) -> bytes:
    """Return a map with any keys, as a hostile peer sends it."""
    packed = [pack(key) + b"\xc0" for key in keys]
    return b"\xdf" + len(packed).to_bytes(4, "big") + b"".join(packed)


def _inputs() -> Iterator[tuple[str, Callable[[bytes], object], str, bytes]]:
    """Yield where an input arrives, what decodes it, what it is, and its bytes."""
    arrays = map_of(colliding_tuples(_KEYS))
    numbers = [float(n) for n in range(MAX_ELEMENTS // 2)]
    maps = b"\xdd" + (MAX_ELEMENTS - 1).to_bytes(4, "big") + b"\x80" * (MAX_ELEMENTS - 1)
    bodies = {
        "arrays that collide as keys": arrays,
        "63 of them in each map": b"\xdc\x01\x00" + map_of(colliding_tuples(63)) * 256,
        "numbers as keys": map_of(numbers),
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
