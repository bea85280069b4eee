"""What a run in several processes says at once: each failure, and where the run hangs.

Pytest tells of failures when all tests have ended, so that a run that never ends tells of none. The
time limit of `faulthandler` holds for one test in one process, and does not help if a process stops
between two tests, is stopped by a signal, or ends while a child of it keeps its pipe open.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

SILENCE = 300.0  # seconds; faulthandler ends a test after 120


class Watchdog:
    """End the run when no process has started or ended a test for ``silence`` seconds.

    It names the tests that run, and makes each process print where its threads are.
    """

    def __init__(self, config: pytest.Config, silence: float = SILENCE) -> None:
        self._config = config
        self._silence = silence
        self._nodes: list[Any] = []
        self._running: dict[str, float] = {}
        self._failed: list[str] = []
        self._latest = time.monotonic()
        self._ended = threading.Event()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        self._nodes.append(node)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        self._latest = time.monotonic()
        threading.Thread(target=self._watch, name="watchdog of the tests", daemon=True).start()

    @pytest.hookimpl
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._latest = self._running[nodeid] = time.monotonic()

    @pytest.hookimpl
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._latest = time.monotonic()
        self._running.pop(nodeid, None)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.append(report.nodeid)
            self._say(f"FAILED {report.nodeid}", _last_line(report))

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._silence / 100):
            if time.monotonic() - self._latest > self._silence:
                self._give_up()

    def _give_up(self) -> None:
        now = time.monotonic()
        running = [f"{it} for {now - since:.0f} s" for it, since in self._running.items()]
        failed = [f"failed before: {it}" for it in self._failed]
        hangs = f"HANGS: no test has started or ended for {self._silence:g} s; what runs:"
        self._say(hangs, *running or ["no test"], *failed, "where each process is:")
        for node in self._nodes:
            with suppress(ProcessLookupError, AttributeError):
                pid = node.gateway._io.popen.pid
                os.kill(pid, signal.SIGABRT)  # faulthandler prints the stacks of all threads
                os.kill(pid, signal.SIGCONT)
        time.sleep(2)
        os._exit(1)

    def _say(self, *lines: str) -> None:
        self._config.get_terminal_writer().write("\n".join(["", *lines, ""]), flush=True)


def _last_line(report: pytest.TestReport) -> str:
    lines = [it for it in report.longreprtext.splitlines() if it.startswith("E ")]
    return "\n".join(lines[:3])
