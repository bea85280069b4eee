"""A temporary redis-server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rap.cli.redis_server import RedisServer, find_redis_server
from rap.redis.client import RedisClient
from tests.cli.programs import PATIENCE, ROOT, is_running, wait_until

needs_redis = pytest.mark.skipif(find_redis_server() is None, reason="needs a redis-server")

HOLDER = """
import asyncio
from rap.cli.redis_server import RedisServer

async def main():
    async with RedisServer() as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_the_environment_chooses_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_SERVER", sys.executable)
    assert find_redis_server() == sys.executable
    monkeypatch.setenv("REDIS_SERVER", "/nowhere")
    with pytest.raises(ValueError, match="REDIS_SERVER='/nowhere' is not a program"):
        find_redis_server()


def test_a_missing_program_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("rap.cli.redis_server._PACKAGES", ("no_such_package",))
    assert find_redis_server() is None
    with pytest.raises(ValueError, match="no redis-server found"):
        RedisServer()


async def test_a_program_that_is_not_redis_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(OSError, match="does not answer: it logged nothing"):
        await RedisServer(str(program)).__aenter__()


@needs_redis
async def test_it_answers_and_a_restart_empties_it() -> None:
    async with RedisServer() as server:
        link = RedisClient(server.url)
        await link.call("SET", "key", "value")
        assert await link.call("GET", "key") == b"value"
        await link.aclose()
        await server.kill()
        assert server.pid is None
        await server.start()
        link = RedisClient(server.url)
        assert await link.call("GET", "key") is None
        await link.aclose()


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    with TemporaryDirectory(prefix="rap-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": folder},
        )
        yield process
        process.kill()
        process.communicate()


@needs_redis
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_it_dies_with_the_process_that_started_it(holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    pid = int(holder.stdout.readline())
    assert is_running(pid)
    holder.send_signal(signal.SIGKILL)
    holder.wait(PATIENCE)
    wait_until(lambda: not is_running(pid), "redis-server to die")
