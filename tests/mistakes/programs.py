"""Runs small programs and commands as a user does, and returns what they print."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

__all__ = ["printed", "python"]

_ROOT = Path(__file__).parents[2]
_RAP = "from rap.cli import main; main()"
_PATIENCE = 60


def python(folder: Path, program: str, *args: str) -> str:
    """Run a program; return what it prints, with the last error but without the traceback."""
    return _run(folder, "-c", dedent(program), *args)


def printed(folder: Path, *args: str) -> str:
    """Run `rap`; return what it prints."""
    return _run(folder, "-c", _RAP, *args)


def _run(folder: Path, *args: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(folder)]), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=env,
        timeout=_PATIENCE,
        check=False,
    )
    return done.stdout.strip()
