"""The program that watches the whole example sees everything, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from integration.stage import ROOT
from tests.observe.prometheus import needs_prometheus
from tests.redis_server import HOW_TO_GET_ONE, find_redis_server, wait_until

PATIENCE = 30.0  # seconds from a signal to the end

needs_redis = pytest.mark.skipif(find_redis_server() is None, reason=HOW_TO_GET_ONE)


@contextmanager
def observing(*options: str, **environ: str) -> Iterator["subprocess.Popen[str]"]:
    """Run it in a process group of its own, as a terminal does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "integration.observe", *options],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def read_until(process: "subprocess.Popen[str]", word: str) -> dict[str, str]:
    """Return lines by their first word, from now on to that one."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        first, _, rest = line.strip().partition(" ")
        found[first] = rest.strip()
        if first == word:
            return found
    raise AssertionError(f"{word} was not said, but {found}")


def nothing_is_left(process: "subprocess.Popen[str]") -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


@needs_prometheus
@needs_redis
def test_it_sees_all_and_stays_until_it_is_told_to_end() -> None:
    with observing("--keep") as process:
        said = read_until(process, "running")
        assert said["targets"].startswith("6 of 6 up")
        assert "queries return data" in said["dashboard"]
        assert said["load"].startswith("http://127.0.0.1:")
        assert said["http"].endswith("/api")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        wait_until(lambda: nothing_is_left(process), "end of all", PATIENCE)


@needs_prometheus
@needs_redis
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_it_in_the_middle(number: signal.Signals) -> None:
    with observing() as process:
        read_until(process, "prometheus")
        if number is signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to all
        else:
            process.send_signal(number)
        assert process.wait(PATIENCE) == 130
        wait_until(lambda: nothing_is_left(process), "end of all", PATIENCE)


def test_it_says_what_it_lacks() -> None:
    with observing(PATH="/nonexistent") as process:
        assert process.wait(PATIENCE) == 1
        assert process.stdout is not None
        assert "no prometheus found" in process.stdout.read()
