"""Programs of their own: what a forked child and the end of the interpreter do to a client."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client.threaded import serving
from tests.loopback import PATIENCE

ROOT = Path(__file__).parents[2]
BEGIN = """
import os, sys
from rap.client import SyncClient

client = SyncClient(sys.argv[1])
client.connect()
"""


def whose() -> int:
    return 1


def run(program: str, **options: Any) -> str:
    """Return what a program prints that has the address of a server as its argument."""
    with serving(whose, **options) as server:
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + program, str(server.addresses[0])],
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_program_that_does_not_close_its_client_ends() -> None:
    assert run("print(client.raw_call('whose'))") == "1\n"


def test_a_program_ends_while_a_thread_still_calls() -> None:
    program = """
import threading
def call():
    for _ in range(50):
        client.raw_call("whose")
    print("called")
threading.Thread(target=call).start()
"""
    assert run(program) == "called\n"


def test_a_program_ends_in_the_middle_of_a_generator_and_a_channel() -> None:
    program = """
items = client.iterator_call("whose")
channel = client.channel("whose")
channel.__enter__()
print("left")
"""
    assert run(program) == "left\n"


FORK = """
def fork(child):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException as error:
            print(type(error).__name__, error)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
def port():
    node, = client.live[0].cluster.nodes.values()
    conn, = node.pool.connections
    return conn.transport.get_extra_info("sockname")
"""
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
QUIET = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + FORK


def test_a_forked_child_has_connections_of_its_own() -> None:
    program = """
mine = port()
def child():
    print("child", client.raw_call("whose"), port() != mine)
    client.close()
fork(child)
fork(child)
print("parent", client.raw_call("whose"), port() == mine)
"""
    assert run(QUIET + program) == "child 1 True\nchild 1 True\nparent 1 True\n"


def test_a_child_does_not_keep_the_connection_of_its_parent_open() -> None:
    program = """
node, = client.live[0].cluster.nodes.values()
conn, = node.pool.connections
number = conn.transport.get_extra_info("socket").fileno()
def child():
    print(os.fstat(number).st_rdev == os.stat(os.devnull).st_rdev)
fork(child)
print(client.raw_call("whose"))
"""
    assert run(QUIET + program) == "True\n1\n"


def test_a_stub_works_on_both_sides_of_a_fork() -> None:
    program = """
@client.register()
def whose() -> int: ...
print(whose())
fork(lambda: print(whose()))
print(whose())
"""
    assert run(QUIET + program) == "1\n1\n1\n"


def test_what_was_open_at_a_fork_fails_in_the_child() -> None:
    program = """
items = client.iterator_call("whose")
with client.session as session:
    def child():
        try:
            client.raw_call("whose")
        except Exception as error:
            print(type(error).__name__, "forked from" in str(error))
        next(items)
    fork(child)
    print(client.raw_call("whose"))
"""
    lines = run(QUIET + program).splitlines()
    assert lines[0] == "Unavailable True"
    assert lines[1].startswith("Unavailable it belongs to the process")
    assert lines[2] == "1"


def test_a_child_that_ends_as_programs_do_leaves_its_parent_alone() -> None:
    program = """
pid = os.fork()
if pid == 0:
    sys.exit(0)
os.waitpid(pid, 0)
print(client.raw_call("whose"))
"""
    assert run(QUIET + program) == "1\n"


def test_a_client_with_a_registry_object_is_refused_in_a_child() -> None:
    program = """
from rap.address import Address
from rap.registry import Endpoint, StaticResolver

fixed = StaticResolver([Endpoint("one", Address.parse(sys.argv[1]))])
client = SyncClient(service="calc", registry=fixed)
client.connect()
fork(lambda: client.raw_call("whose"))
"""
    output = run(QUIET + program, service="calc", registry="memory://")
    assert "give registry as a URL" in output
