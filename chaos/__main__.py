"""``python -m chaos``: a day of faults under load, and a verdict; see docs/chaos.md."""

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
from pathlib import Path

from chaos.day import EVENTS
from chaos.report import write_report
from chaos.run import spend_day
from chaos.stage import Size, Stage
from chaos.timeline import draw

__all__: list[str] = []

_FULL = 720.0  # seconds
_WANTED = 1_000_000  # calls of a full day
_NAMES = [event.name for event in EVENTS]


def main() -> int:
    """Spend a day; return 1 if something happened that must not."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_FULL, help="default: 720, a full day")
    parser.add_argument("--rate", type=float, default=Size().rate, help="calls/s; default: 1,400")
    parser.add_argument("--replicas", type=int, default=Size().replicas, help="default: 10")
    parser.add_argument("--drivers", type=int, default=Size().drivers, help="default: 2")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--events", type=_events, default=EVENTS, help=", ".join(_NAMES))
    parser.add_argument("--out", type=Path, default=Path("build/chaos"), help="directory")
    parser.add_argument("--proxies", action="store_true", help="use no network namespaces")
    given = parser.parse_args()
    if given.out.exists():
        shutil.rmtree(given.out)
    given.out.mkdir(parents=True)
    size = Size(given.replicas, given.drivers, given.rate)
    stage = Stage(given.out.resolve(), size, given.seed, False if given.proxies else None)
    found, happenings = asyncio.run(spend_day(stage, given.events, given.seconds, _tell))
    head = (
        f"{given.replicas} replicas, {given.drivers} drivers, {given.rate:g} calls/s, "
        f"seed {given.seed}, {stage.network.name}; {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    wanted = _WANTED if given.seconds >= _FULL else 0
    report = write_report(found, happenings, head, wanted, given.replicas)
    (given.out / "report.md").write_text(report)
    (given.out / "timeline.svg").write_text(draw(found, happenings, f"A day of faults: {head}"))
    (given.out / "failures.json").write_text(
        json.dumps([each._asdict() for each in (*found.failed, *found.wrong, *found.own)], indent=1)
    )
    print(report)
    print(f"report and timeline: {given.out}")
    return 0 if found.is_good and not any(each.trouble for each in happenings) else 1


def _events(text: str) -> list[object]:
    by_name = {event.name: event for event in EVENTS}
    try:
        return [by_name[name] for name in text.split(",")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"{error} is none of {', '.join(_NAMES)}") from None


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
