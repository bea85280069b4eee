"""The two ways to fuzz a target for some seconds: guided by coverage, or by blind mutation."""

import importlib.util
import random
import re
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fuzz.corpus import SEEDS
from fuzz.mutate import Mutator
from fuzz.targets import TARGETS

__all__ = ["Outcome", "blind", "guided", "has_atheris"]

_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_GRACE = 60.0  # seconds beyond its time after which a fuzzer is taken for hung
_TRACE = 4000  # characters of a finding that are shown


class Outcome(NamedTuple):
    """What fuzzing one target came to."""

    executions: int
    finding: str  # empty: none


def has_atheris() -> bool:
    """Return whether the coverage-guided fuzzer is installed."""
    return importlib.util.find_spec("atheris") is not None


def guided(name: str, seconds: int, folder: Path) -> Outcome:
    """Fuzz a target with atheris; a finding's input stays in `folder`."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        (corpus / sha256(seed).hexdigest()[:16]).write_bytes(seed)
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.guided", name, str(folder), str(seconds)],
        capture_output=True,
        text=True,
        timeout=seconds + _GRACE,
    )
    output = done.stdout + done.stderr
    match = _EXECUTED.search(output)
    executions = int(match[1]) if match else 0
    return Outcome(executions, "" if done.returncode == 0 and match else output[-_TRACE:])


def blind(name: str, seconds: float, folder: Path, seed: int) -> Outcome:
    """Fuzz a target with mutations of well-formed conversations."""
    target = TARGETS[name]()
    mutator = Mutator(SEEDS, random.Random(seed))
    stop = time.monotonic() + seconds
    executions = 0
    try:
        while time.monotonic() < stop:
            data = mutator.next()
            executions += 1
            try:
                target.run(data)
            except Exception as exc:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"finding-{sha256(data).hexdigest()[:16]}"
                path.write_bytes(data)
                return Outcome(executions, f"{path}: {exc!r}"[:_TRACE])
    finally:
        target.close()
    return Outcome(executions, "")
