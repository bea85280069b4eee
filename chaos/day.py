"""What happens in a day: every fault as a function that provokes it and ends it."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from chaos.network import Way
from chaos.replica import WORK_SECONDS
from chaos.stage import Replica, Stage
from rap.client import Client
from rap.errors import Code

__all__ = ["EVENTS", "Event", "Happening", "spend"]

_IN_DRAIN = 0.4  # seconds between SIGTERM and SIGKILL
_OVERLOAD = 3.0  # times the capacity
_BETWEEN_RESETS = 1.0  # seconds
_BLOCK = 5.0  # seconds that a loop is blocked at most
_LONGEST = 10.0  # seconds that a fault lasts
_OVERLOAD_SECONDS = 30.0
_CALM = 1.0  # seconds between two events at least


class _Day:
    """What a fault needs to know.

    Args:
        stage: Everything that runs.
        hold: Seconds that the fault lasts.
        overload: Seconds of the overload.
        rng: Chooses victims.
        chosen: How often each replica was chosen on this day.

    Attributes:
        victims: The replicas that the fault concerns.
    """

    def __init__(
        self, stage: Stage, hold: float, overload: float, rng: Random, chosen: Counter[str]
    ) -> None:
        self.stage = stage
        self.hold = hold
        self.overload = overload
        self.rng = rng
        self._chosen = chosen
        self.victims: list[Replica] = []

    def choose(self, among: Sequence[Replica] = ()) -> Replica:
        """Return a victim."""
        stock = self.stage.of("stock")
        local = [replica for replica in stock if replica.remote is None]
        victim = self.draw(among or (local if len(local) > len(stock) / 2 else stock))
        self.hurt(victim)
        return victim

    def draw(self, among: Sequence[Replica]) -> Replica:
        """Return one of those that were chosen least often: the others are hardly used yet."""
        fewest = min(self._chosen[each.name] for each in among)
        drawn = self.rng.choice([each for each in among if self._chosen[each.name] == fewest])
        self._chosen[drawn.name] += 1
        return drawn

    def hurt(self, victim: Replica) -> None:
        """Note that a replica is not healthy from now on."""
        self.victims.append(victim)
        self.stage.mark(victim, False)

    async def trouble(self, victim: Replica, name: str, *arguments: Any) -> None:
        """Call a function of one replica."""
        async with Client(victim.place.key) as client:
            await client.raw_call(name, *arguments, group="trouble", timeout=self.hold + 60.0)


async def _rolling(day: _Day) -> None:
    for replica in day.stage.replicas:
        day.hurt(replica)
        replica.process.send(signal.SIGTERM)
        await replica.process.ended()
        await day.stage.launch(replica)


async def _kill(day: _Day) -> None:
    victim = day.choose()
    victim.process.send(signal.SIGKILL)
    await victim.process.ended()
    await asyncio.sleep(day.hold)
    await day.stage.launch(victim)


async def _freeze(day: _Day) -> None:
    victim = day.choose()
    victim.process.send(signal.SIGSTOP)
    await asyncio.sleep(day.hold)
    victim.process.send(signal.SIGCONT)
    day.stage.mark(victim, True)


async def _freeze_some(day: _Day) -> None:
    stock = day.stage.of("stock")
    for _ in range(max(1, len(stock) * 2 // 5)):
        victim = day.choose()
        victim.process.send(signal.SIGSTOP)
    await asyncio.sleep(day.hold)
    for victim in day.victims:
        victim.process.send(signal.SIGCONT)
        day.stage.mark(victim, True)


async def _kill_in_drain(day: _Day) -> None:
    victim = day.choose()
    victim.process.send(signal.SIGTERM)
    await asyncio.sleep(_IN_DRAIN)
    victim.process.send(signal.SIGKILL)
    await victim.process.ended()
    await day.stage.launch(victim)


async def _restart_all(day: _Day) -> None:
    async def restart(replica: Replica) -> None:
        await replica.process.ended()
        await day.stage.launch(replica)

    for replica in day.stage.of("stock"):
        day.hurt(replica)
        replica.process.send(signal.SIGTERM)
    await asyncio.gather(*map(restart, day.victims))


async def _burn(day: _Day) -> None:
    victim = day.choose()
    await day.trouble(victim, "burn", day.hold)
    await asyncio.sleep(day.hold)
    day.stage.mark(victim, True)


async def _block(day: _Day) -> None:
    victim = day.choose()
    await day.trouble(victim, "block", min(day.hold, _BLOCK))
    day.stage.mark(victim, True)


async def _unavailable(day: _Day) -> None:
    await _fail(day, Code.UNAVAILABLE)


async def _internal(day: _Day) -> None:
    await _fail(day, Code.INTERNAL)


async def _fail(day: _Day, code: Code) -> None:
    victim = day.choose()
    await day.trouble(victim, "fail", int(code), day.hold)
    await asyncio.sleep(day.hold)
    day.stage.mark(victim, True)


async def _cut_in(day: _Day) -> None:
    await _cut(day, Way.IN)


async def _cut_out(day: _Day) -> None:
    await _cut(day, Way.OUT)


async def _cut_both(day: _Day) -> None:
    await _cut(day, Way.BOTH)


async def _cut(day: _Day, way: Way) -> None:
    victim = day.choose(day.stage.remote)
    assert victim.remote is not None
    await day.stage.network.cut(victim.remote, way)
    await asyncio.sleep(day.hold)
    await day.stage.network.heal(victim.remote)
    day.stage.mark(victim, True)


async def _reset(day: _Day) -> None:
    victim = day.draw(day.stage.remote)  # it remains healthy
    day.victims.append(victim)
    assert victim.remote is not None
    for _ in range(max(1, round(day.hold / _BETWEEN_RESETS))):
        await day.stage.network.reset(victim.remote)
        await asyncio.sleep(_BETWEEN_RESETS)


async def _redis_killed(day: _Day) -> None:
    redis = day.stage.redis
    for node in redis.nodes:
        await asyncio.to_thread(node.kill)
    await asyncio.sleep(day.hold)
    await asyncio.to_thread(redis.heal)


async def _redis_frozen(day: _Day) -> None:
    redis = day.stage.redis
    for node in redis.nodes:
        node.freeze()
    await asyncio.sleep(day.hold)
    await asyncio.to_thread(redis.heal)


async def _redis_flushed(day: _Day) -> None:
    primary = await asyncio.to_thread(lambda: day.stage.redis.primary)
    await asyncio.to_thread(primary.command, "FLUSHALL")
    await asyncio.sleep(day.hold)


async def _failover(day: _Day) -> None:
    redis = day.stage.redis
    primary = await asyncio.to_thread(lambda: redis.primary)
    await asyncio.to_thread(primary.kill)
    await asyncio.sleep(day.hold)
    await asyncio.to_thread(redis.heal)


async def _overload(day: _Day) -> None:
    stage = day.stage
    rate = _OVERLOAD * len(stage.of("stock")) / WORK_SECONDS
    first = stage.now()
    plan = {"first": first + 1.0, "seconds": day.overload, "rate": rate, "only": "work"}
    await stage.drive(plan)
    await asyncio.sleep(first + 1.0 + day.overload - stage.now())


class Event(NamedTuple):
    """A kind of fault.

    Args:
        name: For the command line.
        title: For the report.
        run: Provokes it and ends it.
    """

    name: str
    title: str
    run: Callable[[_Day], Awaitable[None]]


EVENTS = (
    Event("rolling", "rolling restart of all replicas", _rolling),
    Event("kill", "kill -9 of one replica", _kill),
    Event("freeze", "SIGSTOP of one replica", _freeze),
    Event("freeze-some", "SIGSTOP of two in five replicas", _freeze_some),
    Event("drain-kill", "SIGKILL in the drain", _kill_in_drain),
    Event("restart-all", "all replicas restarted at once", _restart_all),
    Event("burn", "CPU burn in one replica", _burn),
    Event("block", "blocked loop of one replica", _block),
    Event("unavailable", "UNAVAILABLE from one replica", _unavailable),
    Event("internal", "INTERNAL from one replica", _internal),
    Event("cut-in", "nothing reaches one replica", _cut_in),
    Event("cut-out", "nothing comes from one replica", _cut_out),
    Event("black-hole", "black hole before one replica", _cut_both),
    Event("reset", "RST of all connections of one replica", _reset),
    Event("redis-kill", "Redis killed, back empty", _redis_killed),
    Event("redis-freeze", "Redis frozen", _redis_frozen),
    Event("redis-flush", "Redis flushed", _redis_flushed),
    Event("failover", "Sentinel failover", _failover),
    Event("overload", "3 times the capacity", _overload),
)


@dataclass
class Happening:
    """An event of a day.

    Attributes:
        event: What happened.
        begin: When it began, in seconds since the start.
        healed: When it was over.
        end: When the next one began, or the day ended.
        victims: The addresses of the replicas that it concerned.
        names: Their names.
        trouble: What went wrong with the provocation itself; empty: nothing.
    """

    event: Event
    begin: float
    healed: float
    end: float
    victims: list[str]
    names: list[str]
    trouble: str = ""


async def spend(
    stage: Stage,
    events: Sequence[Event],
    slot: float,
    rng: Random,
    told: Callable[[str], object],
) -> list[Happening]:
    """Let events happen one after the other.

    Args:
        stage: Everything that runs.
        events: What is to happen, in order.
        slot: Seconds from one event to the next, unless it takes longer.
        rng: Chooses victims.
        told: Told about each event.
    """
    found: list[Happening] = []
    chosen: Counter[str] = Counter()
    for event in events:
        day = _Day(stage, min(_LONGEST, slot / 3), min(_OVERLOAD_SECONDS, slot * 0.75), rng, chosen)
        begin = stage.now()
        told(f"{begin:6.1f} s  {event.title}")
        trouble = ""
        try:
            await event.run(day)
        except Exception as error:  # the day goes on, and the report says so
            trouble = f"{type(error).__name__}: {error}"
            told(f"          {trouble}")
        healed = stage.now()
        keys = [victim.place.key for victim in day.victims]
        names = [victim.name for victim in day.victims]
        happening = Happening(event, begin, healed, 0.0, keys, names, trouble)
        found.append(happening)
        await asyncio.sleep(max(_CALM, begin + slot - stage.now()))
        happening.end = stage.now()
    return found
