"""The commands against a service of real processes in a real Redis, one of which dies."""

import json
import os
import signal
from pathlib import Path

from tests.cli.programs import PATIENCE, line_with, rap
from tests.cli.shop import invoke
from tests.redis_server import RedisServer

PROGRAM = """
from rap.server import Server

server = Server("127.0.0.1:0", service="shop", registry={url!r}, drain_delay=0)

@server.register
async def add(a: int, b: int = 1) -> int:
    return a + b
"""


async def test_every_command_notices_a_frozen_and_a_dead_instance(
    redis_single: RedisServer, namespace: str, tmp_path: Path
) -> None:
    url = f"{redis_single.url}?namespace={namespace}"
    (tmp_path / "member.py").write_text(PROGRAM.format(url=url))  # a small file
    where = ("--registry", redis_single.url, "--namespace", namespace, "--service", "shop")
    with (
        rap("serve", "member:server", cwd=tmp_path) as one,
        rap("serve", "member:server", cwd=tmp_path) as two,
    ):
        first = line_with(one, "rap: listening on").split()[-1]
        second = line_with(two, "rap: listening on").split()[-1]
        both = {first, second}

        listed = json.loads((await invoke(None, "ls", *where, "--json")).stdout)
        assert {row["address"]: row["state"] for row in listed} == dict.fromkeys(both, "up")
        assert (await invoke(None, "call", "add", "1", *where)).stdout == "2\n"
        bench = json.loads(
            (await invoke(None, "bench", "add", "1", "-n", "200", *where, "--json")).stdout
        )
        assert (bench["calls"], bench["failed"]) == (200, 0)
        assert {row["address"] for row in bench["instances"] if row["calls"]} == both

        os.kill(two.pid, signal.SIGSTOP)
        result = await invoke(None, "ping", "-n", "1", "--timeout", "2", "--json", *where)
        os.kill(two.pid, signal.SIGCONT)
        lost = {row["address"]: row["lost"] for row in json.loads(result.stdout)}
        assert (lost, result.exit_code) == ({first: 0, second: 1}, 1)

        two.kill()
        two.wait(PATIENCE)
        result = await invoke(None, "top", "--once", "--json", *where)
        states = {row["address"]: row["state"] for row in json.loads(result.stdout)}
        assert states == {first: "up", second: "silent"}
        assert (await invoke(None, "call", "add", "1", *where)).stdout == "2\n"
