"""Who listens on a port that a server cannot have."""

import socket
import subprocess
import sys

import pytest

from rap.transport.port_owner import owner_of_port

LISTEN = """
import socket, sys
with open("/proc/self/comm", "w") as name:
    name.write(sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells it")
@pytest.mark.parametrize(
    ("name", "shown"),
    [("shop", "shop"), ("a) run: x|sh #", "a? run? x?sh ?")],
    ids=["plain", "forged"],
)
def test_the_name_of_a_program_is_shown_and_not_its_arguments(name: str, shown: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, name, "--password=secret"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert owner_of_port(port) == f"process {process.pid} ({shown})"
        process.kill()


def test_the_own_process_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert owner_of_port(listener.getsockname()[1]) == "this process"
