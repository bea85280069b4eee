"""``python -m fuzz``: feed random bytes to the protocol, a client and a server; count what breaks.

Beside, hypothesis lets two endpoints talk, and compares what arrives with a model.
"""

import argparse
import sys
from pathlib import Path

from fuzz.conversation import converse
from fuzz.engines import blind, guided, has_atheris
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
    shares = len(TARGETS) + 1
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
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
