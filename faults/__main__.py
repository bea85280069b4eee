"""``python -m faults``: provoke each fault, measure what happens, and print one table."""

import argparse
import asyncio
import logging
import sys
import time

from faults import (
    budgets,
    bytes_in,
    costs,
    failover,
    gateway,
    grey,
    identity,
    pressure,
    replays,
    trust,
    verifiers,
)
from faults.scenario import Measured, Scale, Scenario, verdict

__all__: list[str] = []

_MODULES = (
    *(bytes_in, pressure, replays, identity, grey),
    *(failover, budgets, verifiers, costs, trust, gateway),
)
_SCENARIOS = sorted(
    (each for module in _MODULES for each in module.SCENARIOS), key=lambda each: each.row
)
_FULL = Scale(
    fuzz_seconds=60,
    failovers=20,
    sealed_frames=1000,
    replays=10_000,
    cancels=100_000,
    quiet_seconds=600,
    overload_loads=(1.2, 2.0, 4.0),
    overload_clients=(1, 8),
)
_PATIENCE = 900.0  # seconds


def main() -> int:
    """Run all rows or those that are named; return 1 if one missed its figure."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--rows", help="numbers, such as 1,2,13; all by default")
    parser.add_argument("--full", action="store_true", help="as often as the figures say")
    options = parser.parse_args()
    numbers = {each.row for each in _SCENARIOS}
    rows = _numbers(options.rows, numbers) if options.rows else numbers
    if not rows:
        parser.error(f"--rows must name some of {sorted(numbers)}, got {options.rows!r}")
    logging.getLogger("rap").setLevel(logging.CRITICAL)  # of attacks there is much to warn
    scale = _FULL if options.full else Scale()
    results = []
    for scenario in _SCENARIOS:
        if scenario.row in rows:
            measured = _run(scenario, scale)
            results.append(measured)
            print(_line(scenario, measured), flush=True)
    missed = sum(measured.good is False for measured in results)
    skipped = sum(measured.good is None for measured in results)
    print(f"{len(results)} rows, {missed} missed, {skipped} skipped")
    return 1 if missed else 0


def _numbers(text: str, known: set[int]) -> set[int]:
    return {int(each) for each in text.split(",") if each.isdecimal()} & known


def _run(scenario: Scenario, scale: Scale) -> Measured:
    async def bounded() -> Measured:
        async with asyncio.timeout(_PATIENCE):
            return await scenario.run(scale)

    began = time.monotonic()
    try:
        measured = asyncio.run(bounded())
    except Exception as exc:  # a row that breaks off must not hide the others
        measured = Measured(f"broke off: {exc!r}", False)
    return measured._replace(text=f"{measured.text} [{time.monotonic() - began:.0f} s]")


def _line(scenario: Scenario, measured: Measured) -> str:
    return (
        f"| {scenario.row:>2} | {scenario.fault:<34} | {scenario.expected:<36} "
        f"| {verdict(measured):<7} | {measured.text} |"
    )


if __name__ == "__main__":
    sys.exit(main())
