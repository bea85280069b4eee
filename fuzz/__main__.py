"""``python -m fuzz``: feed random bytes to the protocol and to a server, and count what breaks."""

import argparse
import sys
from pathlib import Path

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
    if options.seconds < len(TARGETS):
        parser.error(f"--seconds must be at least {len(TARGETS)}, got {options.seconds}")
    engine = options.engine
    if engine == "auto":
        engine = "atheris" if has_atheris() else "blind"
        if engine == "blind":
            print("atheris is not installed: mutating blindly, without its coverage")
    harmed = 0
    share = options.seconds // len(TARGETS)
    for name in TARGETS:
        folder = _FINDINGS / name
        if engine == "atheris":
            outcome = guided(name, share, folder)
        else:
            outcome = blind(name, share, folder, options.seed)
        harmed += bool(outcome.finding)
        verdict = outcome.finding or "0 unhandled exceptions, 0 leaked tasks"
        print(f"{name}: {engine}, {outcome.executions} executions: {verdict}", flush=True)
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
