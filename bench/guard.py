"""Count the instructions of a call and compare: ``python -m bench.guard``.

Unlike seconds, instructions do not depend on the load of the machine: the same program gives the
same count within about two per cent. Each mode of `bench.guard_program` runs twice under
callgrind, short and long; the difference is what its calls cost, without start and end.

You cannot compare the counts of different Python versions or processors, so ``guard.json`` has one
entry for each.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.guard_program import MODES

__all__ = ["Counts", "compare", "count", "dear", "table"]

_BASELINE = Path(__file__).with_name("guard.json")
_ROOT = Path(__file__).parents[1]
_PACKAGES = ("msgpack", "msgspec", "uvloop")
_WORSE = 0.05  # of a mode's count, from which on it fails
_NOT_SAMPLED = 0.02  # of a plain call, which tracing may cost a call that is in no trace
_LIMIT = 600  # seconds

Counts = dict[str, int]  # instructions of client and server for one call, by mode


def count(mode: str) -> int:
    """Return the instructions of one call, item or round trip.

    Raises:
        RuntimeError: The program failed under callgrind.
        CalledProcessError: The program failed without callgrind.
    """
    # Once without callgrind: whatever is not compiled to byte code yet is from here on.
    command = [sys.executable, "-m", "bench.guard_program", mode, "64"]
    subprocess.run(command, env=_environment(), check=True, timeout=_LIMIT)
    short, long = (2_000, 42_000) if mode in ("stream", "client stream") else (640, 3_200)
    return round((_instructions(mode, long) - _instructions(mode, short)) / (long - short))


def _instructions(mode: str, calls: int) -> int:
    command = [
        *([] if shutil.which("setarch") is None else ["setarch", "-R"]),  # addresses that stay
        *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
        *(sys.executable, "-m", "bench.guard_program", mode, str(calls)),
    ]
    environment = _environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_LIMIT)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"{mode!r} with {calls} calls: {done.stderr[-1000:]}")
    return int(found[1])


def _environment() -> dict[str, str]:
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(_ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # to compile disturbs what is counted
    return environment


def compare(counts: Counts, baseline: Counts) -> list[str]:
    """Return the modes that became worse than is allowed, each with its figures."""
    return [
        f"{mode}: {found:,} instructions, {found / baseline[mode] - 1:+.1%} of {baseline[mode]:,}"
        for mode, found in counts.items()
        if mode in baseline and found > baseline[mode] * (1 + _WORSE)
    ]


def dear(counts: Counts) -> list[str]:
    """Return the modes of calls in no trace that cost more than is allowed, with their figures."""
    unary = counts.get("unary", sys.maxsize)
    return [
        f"{mode}: {found - unary:+,} instructions, {found / unary - 1:+.1%} of a plain call"
        for mode, found in counts.items()
        if mode.endswith("not sampled") and found > unary * (1 + _NOT_SAMPLED)
    ]


def table(counts: Counts, baseline: Counts) -> str:
    """Return the counts, their changes, and the cost of each mode relative to plain unary calls."""
    lines = [f"{'instructions per call':<34}{'now':>10}{'before':>10}{'change':>9}{'to unary':>10}"]
    for mode, found in counts.items():
        before = baseline.get(mode)
        known = f"{before:>10,}{found / before - 1:>+9.1%}" if before else " " * 19
        unary = counts.get("unary")
        beside = f"{found / unary - 1:>+10.1%}" if unary and mode.startswith("unary,") else ""
        lines.append(f"{mode:<34}{found:>10,}{known}{beside}")
    return "\n".join(lines)


def _here() -> str:
    """Name what counts depend on: the Python and the processor."""
    implementation = platform.python_implementation()
    return f"{implementation} {sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}"


def main() -> None:
    """Count, compare, and fail where a mode became worse."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=__doc__)
    parser.add_argument("--update", action="store_true", help=f"write {_BASELINE.name}")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("skipped: there is no valgrind (apt install valgrind)")
        return
    saved = json.loads(_BASELINE.read_text()) if _BASELINE.exists() else {}
    baseline: Counts = saved.get(_here(), {}).get("instructions", {})
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        counts = dict(zip(options.modes, threads.map(count, options.modes), strict=True))
    print(table(counts, baseline))
    if options.update:
        packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
        saved[_here()] = {"packages": packages, "instructions": {**baseline, **counts}}
        _BASELINE.write_text(json.dumps(saved, indent=2) + "\n")
        print(f"wrote {_BASELINE}")
    elif not baseline:
        print(f"nothing to compare with: {_BASELINE.name} has no counts of {_here()}")
    elif worse := compare(counts, baseline):
        sys.exit("worse by more than 5 %:\n" + "\n".join(worse))
    if too_dear := dear(counts):
        sys.exit("tracing costs more than 2 % where nothing is sampled:\n" + "\n".join(too_dear))


if __name__ == "__main__":
    main()
