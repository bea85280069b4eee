"""One day, from its start to what it has left behind."""

import asyncio
import json
from collections.abc import Callable, Sequence
from random import Random

from chaos.day import Event, Happening, spend
from chaos.records import Found, read_day
from chaos.stage import Stage

__all__ = ["spend_day"]

_QUIET = 4.0  # seconds before the first event, and after the last one


async def spend_day(
    stage: Stage, events: Sequence[Event], seconds: float, told: Callable[[str], object]
) -> tuple[Found, list[Happening]]:
    """Start everything, let events happen under load, and return what was found.

    Args:
        stage: What runs; it is not entered yet.
        events: What is to happen, in order.
        seconds: How long it takes, at least.
        told: Told about each event.
    """
    size = stage.size
    async with stage:
        for _ in range(size.drivers):
            plan = {
                "first": stage.now() + 1.0,
                "seconds": 86_400.0,
                "rate": size.rate / size.drivers,
                "only": "",
            }
            await stage.drive(plan)
        await asyncio.sleep(_QUIET)
        slot = (seconds - 2 * _QUIET) / len(events)
        happenings = await spend(stage, events, slot, Random(stage.seed), told)
        await asyncio.sleep(_QUIET)
        await stage.stop_driving()
    (stage.directory / "health.json").write_text(json.dumps(stage.health))
    return read_day(stage.directory, happenings, stage.health, size.drivers), happenings
