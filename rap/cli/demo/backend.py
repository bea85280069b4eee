"""The registry of the demo: a temporary Redis, the Redis of the user, or files.

The demo restarts a registry that it started: a Redis comes back empty, as it does without a disk,
and files are removed. It does not restart the Redis of the user, which others may use, too.
"""

import asyncio
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from rap.cli.redis_server import RedisServer, find_redis_server
from rap.redis.url import REDIS_SCHEMES

__all__ = ["Backend", "choose_backend"]

_OUTAGE = 0.5  # seconds that a restart lasts


class Backend(Protocol):
    """A registry that the demo starts, restarts and ends.

    Attributes:
        url: URL of the registry for clients and servers.
        title: Description of the registry to print.
        restarts: Whether the demo may restart it.
    """

    @property
    def url(self) -> str: ...  # noqa: D102
    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def restarts(self) -> bool: ...  # noqa: D102

    async def start(self) -> None:
        """Start it; return when it answers."""

    async def restart(self) -> None:
        """Stop it, and start it without data."""

    async def close(self) -> None:
        """Stop it and remove its data."""


class OwnRedis:
    """A temporary redis-server."""

    restarts = True

    def __init__(self, program: str) -> None:
        self._server = RedisServer(program)
        self.title = f"Redis ({Path(program).name})"

    @property
    def url(self) -> str:
        """URL of the server."""
        return self._server.url

    async def start(self) -> None:
        """Start the server."""
        await self._server.start()

    async def restart(self) -> None:
        """Kill the server, and start it without data."""
        await self._server.kill()
        await asyncio.sleep(_OUTAGE)
        await self._server.start()

    async def close(self) -> None:
        """Kill the server."""
        await self._server.close()


class GivenRedis:
    """The Redis of the user, in which the demo uses a new namespace."""

    restarts = False

    def __init__(self, url: str) -> None:
        joint = "&" if "?" in url else "?"
        self.url = f"{url}{joint}namespace=demo-{secrets.token_hex(4)}"
        self.title = f"Redis at {url.rpartition('@')[2]}"

    async def start(self) -> None:
        """Do nothing: it is running."""

    async def restart(self) -> None:
        """Raise an error: the demo does not restart it."""
        raise RuntimeError("a Redis of the user is not restarted")

    async def close(self) -> None:
        """Do nothing: registrations expire with their leases."""


class Files:
    """Files in a temporary directory."""

    restarts = True

    def __init__(self, why: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rap-demo-", ignore_cleanup_errors=True)
        self.url = f"file://{self._folder.name}"
        self.title = f"files ({why})"

    async def start(self) -> None:
        """Do nothing: the directory exists."""

    async def restart(self) -> None:
        """Remove all files; the next renewals of the leases create them again."""
        await asyncio.to_thread(shutil.rmtree, self._folder.name, ignore_errors=True)
        await asyncio.sleep(_OUTAGE)

    async def close(self) -> None:
        """Remove the directory."""
        await asyncio.to_thread(self._folder.cleanup)


def choose_backend(redis: str) -> Backend:
    """Return the registry that ``--redis`` selects.

    Args:
        redis: ``auto`` (a redis-server, if one is found), ``no`` (files), or the URL of a Redis.

    Raises:
        ValueError: `redis` is none of these, or ``$REDIS_SERVER`` is not a program.
    """
    if redis == "no":
        return Files("--redis no")
    if redis == "auto":
        program = find_redis_server()
        return OwnRedis(program) if program else Files("no redis-server found")
    scheme, separator, _ = redis.partition("://")
    if not separator or scheme not in REDIS_SCHEMES:
        raise ValueError(f"must be auto, no or the URL of a Redis, got {redis!r}")
    return GivenRedis(redis)
