"""The short form of ``make chaos``: three replicas, and the faults that are most likely."""

import subprocess
import sys
from pathlib import Path

import pytest

from integration.stage import ROOT
from tests.redis_server import HOW_TO_GET_ONE, find_redis_server

EVENTS = "kill,freeze,drain-kill,black-hole,reset,failover"


@pytest.mark.skipif(find_redis_server() is None, reason=HOW_TO_GET_ONE)
@pytest.mark.parametrize("options", [(), ("--proxies",)], ids=["network", "proxies"])
def test_callers_do_not_notice_faults(tmp_path: Path, options: tuple[str, ...]) -> None:
    out = tmp_path / "chaos"
    short = ("--seconds", "40", "--replicas", "3", "--drivers", "1", "--rate", "200")
    command = [sys.executable, "-m", "chaos", *short, "--events", EVENTS, "--out", str(out)]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (out / "timeline.svg").read_text().startswith("<svg")
