"""Clients and servers of an older release and of this one, together under load.

The older release is the last one without overload control, suspicion and a range of versions in its
Hello. It is taken from the history of the repository.
"""

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from integration.stage import ROOT

OLD = "63e16f0"
CALLS = 2  # thousands, of each client at each step
PATIENCE = 60.0  # seconds


class Peer:
    """A process of `integration.peer`."""

    def __init__(self, role: str, registry: str, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "integration/peer.py"), role, registry],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )

    def line(self) -> str:
        """Return what it prints next."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def drain(self) -> int:
        """Tell a server to end; return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE)

    def finish(self) -> dict[str, Any]:
        """Let a client stop; return what it has found."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        *_, last = iter(self.line, "")
        found: dict[str, Any] = json.loads(last)
        return found

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


Start = Callable[[str, bool], Peer]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the package of the older release."""
    command = ["git", "-C", str(ROOT), "archive", OLD, "rap"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the history of the repository lacks {OLD}: git fetch --unshallow")
    root = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture
def start(old: Path, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start_one(role: str, is_old: bool) -> Peer:
            peer = Peer(role, f"file://{tmp_path}", old if is_old else ROOT)
            stack.callback(peer.end)
            return peer

        yield start_one


def test_no_call_fails_while_releases_are_mixed_under_load(start: Start) -> None:
    def served(is_old: bool) -> Peer:
        server = start("serve", is_old)
        assert server.line() == "ready"
        return server

    servers = [served(True), served(True)]
    clients = [start("call", True), start("call", False)]

    def go_on() -> None:
        for client in clients:
            for _ in range(CALLS):
                assert client.line().isdecimal()

    go_on()
    for is_old in (False, True):  # an upgrade, then back
        for i in range(2):
            replaced, servers[i] = servers[i], served(is_old)
            assert replaced.drain() == 0
            go_on()
    for found in [client.finish() for client in clients]:
        assert found["failed"] == []
        assert found["calls"] >= CALLS * 5000


@pytest.mark.parametrize("is_old_client", [True, False])
def test_clients_of_one_release_keep_a_server_of_the_other_busy(
    start: Start, is_old_client: bool
) -> None:
    server = start("serve", not is_old_client)
    assert server.line() == "ready"
    clients = [start("call", is_old_client) for _ in range(4)]
    for client in clients:
        assert client.line() == "1000"
    for found in [client.finish() for client in clients]:
        assert found["failed"] == []
    assert server.drain() == 0
