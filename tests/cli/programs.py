"""Runs `rap` as a process, as a user does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
# A shell may start its background jobs deaf to Ctrl-C; a user's terminal does not.
RUNNER = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from rap.cli import main; main()"
)


@contextmanager
def rap(*args: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command around the body; its output goes to a pipe."""
    with TemporaryDirectory(prefix="rap-") as folder:  # a short path: it holds unix sockets
        paths = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TMPDIR": folder}
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RUNNER, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={**os.environ, **paths},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """Return the next line of output that has `text`."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    pytest.fail(f"the program ended without {text!r}: {''.join(seen)}")


def children_of(pid: int) -> list[int]:
    """Return the processes that `pid` started, and theirs."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(child) for task in tasks for child in task.read_text().split()]
    return own + [grandchild for child in own for grandchild in children_of(child)]


def is_running(pid: int) -> bool:
    """Whether the process is there, and no zombie that nobody waits for."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when the condition holds; fail after a while."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.01)


def interrupt(process: subprocess.Popen[Any]) -> None:
    """Press Ctrl-C."""
    process.send_signal(signal.SIGINT)
