"""How much time and memory an input costs, per byte, at each entry point."""

import gc
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

from fuzz.entries import ENTRIES
from fuzz.mutate import Mutator

__all__ = ["Costs", "measure", "memory_of", "microseconds_of"]

_LEAST = 1024  # bytes that a shorter input counts as: what is fixed is not per byte
_TRIES = 3
_EVERY = 16  # one of so many mutations is measured for its memory, and each that is dear


class Costs(NamedTuple):
    """What the dearest inputs of an entry point cost.

    Args:
        executions: Inputs that were measured.
        microseconds: The most for a byte.
        slowest: The input that took it.
        memory: The most bytes of memory for a byte.
        largest: The input that took them.
        finding: What exceeds its bound; empty if nothing does.
    """

    executions: int
    microseconds: float
    slowest: bytes
    memory: float
    largest: bytes
    finding: str


def measure(name: str, seconds: float, seed: int = 1) -> Costs:
    """Measure the seeds of an entry point, and mutations of them."""
    entry = ENTRIES[name]
    function, close = entry.make()
    mutator = Mutator(entry.seeds, random.Random(seed))
    stop = time.monotonic() + seconds
    slowest, largest, executions = (0.0, b""), (0.0, b""), 0
    seeds = list(entry.seeds)
    try:
        function(b"\0\0\0\0")  # what is loaded on first use
    except Exception:
        pass
    try:
        while seeds or time.monotonic() < stop:
            is_seed = bool(seeds)
            data = seeds.pop() if is_seed else mutator.next()
            executions += 1
            taken = microseconds_of(function, data, slowest[0])
            is_dear = taken > slowest[0]
            slowest = max(slowest, (taken, data))
            if is_seed or is_dear or executions % _EVERY == 0:
                largest = max(largest, (memory_of(function, data), data))
    finally:
        close()
    finding = ""
    if slowest[0] > entry.most:
        finding = f"{slowest[0]:.2f} us per byte, more than {entry.most:g}"
    elif largest[0] > entry.memory:
        finding = f"{largest[0]:.0f} bytes of memory per byte, more than {entry.memory:g}"
    return Costs(executions, *slowest, *largest, finding)


def microseconds_of(function: Callable[[bytes], object], data: bytes, least: float = 0.0) -> float:
    """Return the CPU time of this thread for each byte, the least of three tries.

    Args:
        function: Takes the input; may raise an error of any kind.
        data: The input.
        least: If the first try takes less, there is no other.
    """
    best = float("inf")
    for _ in range(_TRIES):
        gc.collect(0)
        began = time.thread_time()
        _give(function, data)
        best = min(best, (time.thread_time() - began) * 1e6 / max(len(data), _LEAST))
        if best <= least:
            break
    return best


def memory_of(function: Callable[[bytes], object], data: bytes) -> float:
    """Return the most bytes that are allocated at the same time, for each byte."""
    gc.collect(0)
    tracemalloc.start()
    try:
        _give(function, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak / max(len(data), _LEAST)


def _give(function: Callable[[bytes], object], data: bytes) -> None:
    try:
        function(data)
    except Exception:  # most are refused
        pass
