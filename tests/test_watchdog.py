"""A run in several processes names what fails at once, and ends when it hangs."""

import subprocess
import sys
from pathlib import Path

PLUGIN = """
from tests.watchdog import Watchdog

def pytest_configure(config):
    if config.getoption("tx", None):
        config.pluginmanager.register(Watchdog(config, silence=5))
"""
TESTS = """
import os
import signal

def test_that_fails():
    assert "left" == "right"

def test_that_stops_its_process():
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_run_that_hangs_ends_and_names_the_test_and_the_failures_before(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN)
    (tmp_path / "test_hangs.py").write_text(TESTS)
    root = Path(__file__).parents[1]
    options = [f"--rootdir={tmp_path}", f"--override-ini=pythonpath={root}", "-c", "/dev/null"]
    plugins = ["-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio"]

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", *options, *plugins, "."],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert run.returncode == 1
    assert "FAILED test_hangs.py::test_that_fails\nE   " in run.stdout
    assert "no test has started or ended for 5 s" in run.stdout
    assert "\ntest_hangs.py::test_that_stops_its_process for " in run.stdout
    assert "\nfailed before: test_hangs.py::test_that_fails\n" in run.stdout
    assert "Current thread" in run.stderr
