"""Rows 1 to 7: bytes that ask for far more than they are."""

import asyncio
import builtins
import random
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from faults.raw import HELLO, opening, speaking
from faults.scenario import Measured, Scale, Scenario, median_ms
from faults.victim import attacked
from faults.visitor import beside
from fuzz.engines import blind, guided, has_atheris
from fuzz.targets import TARGETS
from rap.call import Call, Request, Side, StreamType
from rap.errors import CallError, ExceptionTypes, RapError, decode_error
from rap.processor.compress import HEADER_NAME, CompressProcessor
from rap.wire.codec import pack, unpack
from rap.wire.frames import HEADER, OPEN, read_reset

__all__ = ["SCENARIOS"]

_KIB = 1024
_MIB = 1024 * _KIB
_TRIES = 5


async def huge_prefix(scale: Scale) -> Measured:
    """A frame of 4 GiB is announced."""
    took = []
    async with attacked() as victim:
        before = (await victim.vitals())["peak"]
        for _ in range(_TRIES):
            async with speaking(victim.port) as raw:
                await raw.reader.readexactly(1)
                began = time.monotonic()
                raw.writer.write(HEADER.pack(2**32 - 1, OPEN, 5, 1, 0) + bytes(4096))
                await raw.closed()
                took.append(time.monotonic() - began)
        grown = (await victim.vitals())["peak"] - before
    text = f"closed in {median_ms(took):.1f} ms, {grown // _KIB} KiB more memory"
    return Measured(text, median_ms(took) < 50 and grown < _MIB)


async def nesting_bomb(scale: Scale) -> Measured:
    """Arrays in arrays, 33 and a million deep."""
    bombs = [b"\x91" * 33 + b"\x90", b"\x91" * 1_000_000]
    took = max(median_ms([_refusal(bomb) for _ in range(_TRIES)]) for bomb in bombs)
    codes = []
    async with attacked() as victim:
        for bomb in (bombs[0], bombs[1][:900_000]):  # a frame holds a MiB
            async with speaking(victim.port, HELLO + opening(1, bomb)) as raw:
                codes.append(read_reset((await raw.resets(1))[0].body)[0])
        alive = await victim.client.raw_call("echo", 1) == 1
    text = f"refused in {took:.3f} ms; codes {codes}; server {'lives' if alive else 'is dead'}"
    return Measured(text, took < 1 and alive and len(codes) == 2)


def _refusal(body: bytes) -> float:
    began = time.perf_counter()
    try:
        unpack(body)
    except ValueError:
        return time.perf_counter() - began
    raise AssertionError("a bomb was decoded")


async def element_bomb(scale: Scale) -> Measured:
    """A megabyte of empty maps in each call, as fast as they are answered."""
    bomb = b"\xdd" + (1_000_000).to_bytes(4, "big") + b"\x80" * 1_000_000
    sent = 0

    async with attacked() as victim:

        async def attack() -> None:
            nonlocal sent
            async with speaking(victim.port, HELLO + opening(1, bomb)) as raw:
                await raw.resets(1)
                sent += 1

        (busy,) = await beside(victim.port, attack)
    text = f"p99 of others {busy * 1000:.1f} ms beside {sent} bombs"
    return Measured(text, busy < 0.1 and sent > 10)


async def compression_bomb(scale: Scale) -> Measured:
    """260 KB that stand for 256 MiB, whatever size they claim."""
    bomb = zlib.compress(bytes(256 * _MIB))
    peaks, refused = [], 0
    for claim in (256 * _MIB, 16 * _MIB, 1024):
        call = Call("/default/f", StreamType.UNARY, Side.SERVER, {})
        tracemalloc.start()
        try:
            await CompressProcessor().process_request(Request(call, bomb, {HEADER_NAME: claim}))
        except CallError:
            refused += 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    text = f"refused {refused} of 3, at most {max(peaks) // _KIB} KiB more memory"
    return Measured(text, refused == 3 and max(peaks) <= 2 * _MIB)


async def many_keys(scale: Scale) -> Measured:
    """A map of 20,000 keys, and maps with one key twice or that is no string."""
    data = pack({f"key{i}": i for i in range(20_000)})
    took = median_ms([_timed(lambda: unpack(data)) for _ in range(_TRIES)])
    refused = 0
    for bad in (b"\x82\xa1a\x01\xa1a\x02", b"\x81\x01\x01", b"\x81\xc4\x01a\x01"):
        try:
            unpack(bad)
        except ValueError:
            refused += 1
    text = f"20 k keys in {took:.1f} ms; bad maps refused: {refused} of 3"
    return Measured(text, took < 10 and refused == 3)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def mutated_frames(scale: Scale) -> Measured:
    """Random and mutated frames; `make fuzz` does it for longer."""
    executions, harmed = 0, []
    for name in TARGETS:
        with TemporaryDirectory(prefix="rap-fuzz-") as folder:
            path, seconds = Path(folder), scale.fuzz_seconds
            if has_atheris():
                outcome = await asyncio.to_thread(guided, name, seconds, path)
            else:
                outcome = await asyncio.to_thread(blind, name, seconds, path, 1)
        executions += outcome.executions
        harmed += [outcome.finding] if outcome.finding else []
    engine = "atheris" if has_atheris() else "blind"
    seconds = scale.fuzz_seconds * len(TARGETS)
    text = f"{executions} inputs in {seconds} s ({engine}): {len(harmed)} findings"
    return Measured(text + "".join(f"\n{each}" for each in harmed), not harmed and executions > 0)


async def names_of_types(scale: Scale) -> Measured:
    """An answer names what the client is to raise."""
    rng = random.Random(7)
    names = ["eval", "exec", "os.system", "SystemExit", "KeyboardInterrupt", "__import__", "exit"]
    names += ["".join(chr(rng.randrange(33, 126)) for _ in range(8)) for _ in range(10_000)]
    names += [name for name in dir(builtins) if not name[0].isupper()] + list(sys.modules)
    before, types = set(sys.modules), ExceptionTypes()
    wrong = [name for name in names if not _harmless(types, name)]
    loaded = set(sys.modules) - before
    text = f"{len(names)} names: {len(wrong)} became another thing, {len(loaded)} modules loaded"
    return Measured(text, not wrong and not loaded)


def _harmless(types: ExceptionTypes, name: str) -> bool:
    """Whether an error of that name is one of rap, and not of any class that it names."""
    error = decode_error(2, "text", {"type": name}, types)
    bases = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, RapError) and bases <= {"rap", "builtins"}


SCENARIOS = (
    Scenario(1, "length prefix of 4 GiB", "closed in < 50 ms, < 1 MiB", huge_prefix),
    Scenario(2, "nesting bomb, 33 and 1 M deep", "error in < 1 ms", nesting_bomb),
    Scenario(3, "element bomb of 1 MB", "p99 of others < 100 ms", element_bomb),
    Scenario(4, "compression bomb, 256 MiB", "<= 2 MiB more memory", compression_bomb),
    Scenario(5, "20 k keys, duplicate keys", "< 10 ms, duplicates refused", many_keys),
    Scenario(6, "random and mutated frames", "0 exceptions, 0 leaked tasks", mutated_frames),
    Scenario(7, "names of types to call", "0 called, 0 imported", names_of_types),
)
