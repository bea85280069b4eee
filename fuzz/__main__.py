"""``python -m fuzz``: feed random bytes to the protocol, a client and a server; count what breaks.

Hypothesis also lets two endpoints talk, and compares what arrives with a model. Then each entry
point is measured: how much time and memory its dearest inputs take for each byte.
"""

import argparse
import sys
from pathlib import Path

from fuzz.conversation import converse
from fuzz.costs import measure
from fuzz.engines import blind, guided, has_atheris
from fuzz.entries import ENTRIES
from fuzz.targets import TARGETS

__all__: list[str] = []

_FINDINGS = Path(__file__).parent / "findings"


def main() -> int:
    """Fuzz every target for its share of the time; return 1 if one was harmed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of all targets together")
    parser.add_argument("--engine", choices=("auto", "atheris", "blind"), default="auto")
    parser.add_argument("--seed", type=int, default=1, help="of blind mutation")
    options = parser.parse_args()
    shares = len(TARGETS) + 2  # the last one is for the costs
    if options.seconds < shares:
        parser.error(f"--seconds must be at least {shares}, got {options.seconds}")
    engine = options.engine
    if engine == "auto":
        engine = "atheris" if has_atheris() else "blind"
        if engine == "blind":
            print("atheris is not installed: mutating blindly, without its coverage")
    harmed = 0
    share = options.seconds // shares
    for name in TARGETS:
        folder = _FINDINGS / name
        if engine == "atheris":
            outcome = guided(name, share, folder)
        else:
            outcome = blind(name, share, folder, options.seed)
        harmed += bool(outcome.finding)
        verdict = outcome.finding or "0 unhandled exceptions, 0 leaked tasks"
        print(f"{name}: {engine}, {outcome.executions} executions: {verdict}", flush=True)
    outcome = converse(share)
    harmed += bool(outcome.finding)
    verdict = outcome.finding or "0 rules broken"
    print(f"conversation: hypothesis, {outcome.executions} executions: {verdict}", flush=True)
    print(f"{'entry point':26} inputs  us/byte    its size  bytes/byte    its size")
    for name in ENTRIES:
        costs = measure(name, share / len(ENTRIES), options.seed)
        harmed += bool(costs.finding)
        for kind, data in (("slow", costs.slowest), ("large", costs.largest)):
            if costs.finding:
                folder = _FINDINGS / name.replace(" ", "-")
                folder.mkdir(parents=True, exist_ok=True)
                (folder / kind).write_bytes(data)
        print(
            f"{name:26} {costs.executions:6} {costs.microseconds:8.3f} {len(costs.slowest):11}"
            f" {costs.memory:11.1f} {len(costs.largest):11}  {costs.finding}",
            flush=True,
        )
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
