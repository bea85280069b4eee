"""Rows 8 to 10 and 42: peers that hold on, give up, or do not read."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from statistics import median

from faults.raw import HELLO, Raw, opening, speaking
from faults.scenario import Measured, Scale, Scenario
from faults.victim import attacked
from faults.visitor import beside, percentile
from rap.channel import Channel
from rap.client import Client
from rap.errors import CallError, Code
from rap.wire.codec import pack
from rap.wire.frames import DATA, RESET, Frame, parse_frames

__all__ = ["SCENARIOS"]

_KIB = 1024
_MIB = 1024 * _KIB
_IDLE = 1000
_ROUNDS = 3
_BATCH = 100
_AT_ONCE = 10  # attackers, where nothing is measured
_HONEST = 60_000  # calls of the client that gives up some
_STALLED = 12  # channels that nobody reads, more than a connection's credit is for


async def slowloris(scale: Scale) -> Measured:
    """A thousand connections that say nothing.

    What others feel is compared with as many connections to another server of this machine: to
    open them takes the kernel and whoever opens them some time, too.
    """
    elsewhere: list[float] = []
    busy: list[float] = []
    held = 0.0
    async with attacked() as decoy, attacked() as victim:
        for _ in range(_ROUNDS):
            for port, times in ((decoy.port, elsewhere), (victim.port, busy)):
                async with AsyncExitStack() as stack:
                    began = time.monotonic()
                    idle = [
                        await stack.enter_async_context(speaking(port, b"\0")) for _ in range(_IDLE)
                    ]
                    times.append(await percentile(victim.port))
                    await asyncio.gather(*(each.closed() for each in idle))
                    held = max(held, time.monotonic() - began)
    ratio = median(busy) / median(elsewhere)
    text = f"good p99 {median(elsewhere) * 1000:.1f} ms beside them on another server, "
    text += f"{median(busy) * 1000:.1f} on theirs: {ratio:.1f}x; all cut after {held:.1f} s"
    return Measured(text, ratio < 2 and held < 7)


async def rapid_reset(scale: Scale) -> Measured:
    """Calls that are opened and cancelled as fast as connections take them, one after the other.

    What others feel is compared with the same attack on another server of this machine, for the
    attacker takes a core, too.
    """
    cancelled = 0
    floods = [_flood(apart=False), _flood(apart=True)]

    async def attack(port: int) -> None:
        nonlocal cancelled
        floods.reverse()
        async with speaking(port) as raw:
            for part in floods[0]:
                raw.writer.write(part)
                cancelled += _BATCH
                if raw.writer.is_closing() or raw.reader.at_eof():
                    break
                with suppress(ConnectionError):
                    await raw.writer.drain()
            await raw.closed()  # the next connection comes when this one was cut

    async with attacked() as decoy, attacked() as victim:
        before = (await victim.vitals())["tasks"]
        quiet, elsewhere, busy = await beside(
            victim.port, None, lambda: attack(decoy.port), lambda: attack(victim.port)
        )
        while cancelled < scale.cancels:
            await asyncio.gather(*(attack(victim.port) for _ in range(_AT_ONCE)))
        ended, left = time.monotonic(), -1
        while time.monotonic() - ended < 5:
            left = (await victim.vitals())["tasks"] - before
            if left <= 0:
                break
            await asyncio.sleep(0.02)
        took = time.monotonic() - ended
    ratio = busy / elsewhere
    times = f"{quiet * 1000:.1f} ms, {elsewhere * 1000:.1f} beside the attack on another server, "
    text = f"{cancelled} cancels: good p99 {times}{busy * 1000:.1f} beside one on theirs: "
    text += f"{ratio:.1f}x; {max(left, 0)} tasks left after {took:.2f} s"
    return Measured(text, ratio < 2 and left <= 0 and took <= 1)


def _flood(*, apart: bool) -> list[bytes]:
    """Return 5,000 calls with their cancels: each pair together, or a hundred calls before."""
    cancel = pack([Code.CANCELLED, "", {}])
    parts = []
    for first in range(1, 10_000, 2 * _BATCH):
        ids = range(first, first + 2 * _BATCH, 2)
        opens = [opening(n, b"\x90", "wait") for n in ids]
        resets = [Frame(RESET, 0, n, b"", cancel).encode() for n in ids]
        pairs = [each for pair in zip(opens, resets, strict=True) for each in pair]
        parts.append(b"".join([*opens, *resets] if apart else pairs))
    return parts


async def given_up(scale: Scale) -> Measured:
    """A client at full speed that gives up 2 % of its calls, with the limit and without."""
    limited: list[float] = []
    lifted: list[float] = []
    for _ in range(_ROUNDS):
        for limit, rates in ((100, limited), (10**9, lifted)):
            async with attacked(max_cancels=limit) as victim:
                rates.append(await _honest(victim.port))
    ratio = median(limited) / median(lifted)
    text = f"{median(limited):,.0f} calls/s, {median(lifted):,.0f} with the limit lifted: "
    return Measured(text + f"{ratio:.2f}x", ratio >= 0.9)


async def _honest(port: int) -> float:
    """Return the calls per second of a client that cancels two of each hundred."""
    cancel = pack([Code.CANCELLED, "", {}])
    batches = []
    for first in range(3, 2 * _HONEST, 2 * _BATCH):
        ids = range(first, first + 2 * _BATCH, 2)
        opens = [opening(n, b"\x91\x07") for n in ids[:-2]]
        given_up = [opening(n, b"\x90", "wait") for n in ids[-2:]]
        resets = [Frame(RESET, 0, n, b"", cancel).encode() for n in ids[-2:]]
        batches.append(b"".join([*opens, *given_up, *resets]))
    async with speaking(port, HELLO + opening(1, b"\x91\x07")) as raw, asyncio.timeout(60):
        await _answers(raw, 1)
        began = time.monotonic()
        for batch in batches:
            raw.writer.write(batch)
            await _answers(raw, _BATCH - 2)
    return len(batches) * _BATCH / (time.monotonic() - began)


async def _answers(raw: Raw, count: int) -> None:
    """Return when this many answers have been read."""
    data = b""
    while sum(frame.kind == DATA for frame in parse_frames(data)) < count:
        part = await raw.reader.read(65536)
        if not part:
            raise ConnectionError("the server closed the connection")
        data += part


async def stalled_reader(scale: Scale) -> Measured:
    """Channels that the server's functions do not read use up the credit of a connection."""
    async with attacked() as victim, Client(f"127.0.0.1:{victim.port}", max_connections=1) as rude:

        @rude.register()
        async def sleepy(channel: Channel) -> None:
            for _ in range(64):
                await channel.write(b"x" * (64 * _KIB))

        before = (await victim.vitals())["resident"]
        talks = [asyncio.create_task(_ended(sleepy)) for _ in range(_STALLED)]
        await asyncio.sleep(2)
        grown = (await victim.vitals())["resident"] - before
        began = time.monotonic()
        went_on = await rude.raw_call("echo", "x" * 1000, timeout=30) == "x" * 1000
        waited = time.monotonic() - began
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
    text = f"{grown / _MIB:.1f} MiB held; a call on the same connection after {waited:.1f} s"
    # Each stream may hold one message beyond its window, and an allocator some pages.
    most = 8 * _MIB + _STALLED * 64 * _KIB + 4 * _MIB
    return Measured(text, went_on and waited <= 10 and grown <= most)


async def _ended(talk: object) -> None:
    assert callable(talk)
    with suppress(CallError):
        await talk()


SCENARIOS = (
    Scenario(8, "1,000 idle connections", "good p99 < 2x, cut after 5 s", slowloris),
    Scenario(9, "open and cancel at full speed", "good p99 < 2x, 0 tasks after 1 s", rapid_reset),
    Scenario(10, "readers that stall", "<= 8 MiB + messages, others <= 10 s", stalled_reader),
    Scenario(42, "2 % of calls given up", ">= 0.9 of the limit lifted", given_up),
)
