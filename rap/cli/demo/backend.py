"""The registry of the demo: a Redis of its own, one that the user names, or files.

The demo restarts its own: a Redis comes back empty, as one without a disk does; the files are
removed. One that the user named belongs to others too and is left alone.
"""

import asyncio
import secrets
import shutil
import tempfile
from typing import Protocol

from rap.cli.redis_server import RedisServer, find_redis_server
from rap.redis.url import REDIS_SCHEMES

__all__ = ["Backend", "choose_backend"]

_OUTAGE = 0.5  # seconds that a restart takes


class Backend(Protocol):
    """A registry that may be started, restarted and ended.

    Attributes:
        url: For clients and servers.
        title: What it is, for people.
        restarts: Whether it may be restarted.
    """

    @property
    def url(self) -> str: ...  # noqa: D102
    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def restarts(self) -> bool: ...  # noqa: D102

    async def start(self) -> None:
        """Make it answer."""

    async def restart(self) -> None:
        """Take it away and bring it back empty."""

    async def close(self) -> None:
        """End it and remove what it left."""


class OwnRedis:
    """A redis-server of the demo's own."""

    restarts = True

    def __init__(self, program: str) -> None:
        self._server = RedisServer(program)
        self.title = f"Redis ({program})"

    @property
    def url(self) -> str:
        """Where it answers."""
        return self._server.url

    async def start(self) -> None:
        """Run it."""
        await self._server.start()

    async def restart(self) -> None:
        """Kill it, and start it again empty."""
        await self._server.kill()
        await asyncio.sleep(_OUTAGE)
        await self._server.start()

    async def close(self) -> None:
        """End it."""
        await self._server.close()


class GivenRedis:
    """A Redis that belongs to the user; the demo keeps to a namespace of its own."""

    restarts = False

    def __init__(self, url: str) -> None:
        joint = "&" if "?" in url else "?"
        self.url = f"{url}{joint}namespace=demo-{secrets.token_hex(4)}"
        self.title = f"Redis at {url.rpartition('@')[2]}"

    async def start(self) -> None:
        """Do nothing: it runs."""

    async def restart(self) -> None:
        """Refuse."""
        raise RuntimeError("a Redis of the user is not restarted")

    async def close(self) -> None:
        """Do nothing: what was registered goes with its leases."""


class Files:
    """Files in a temporary directory."""

    restarts = True

    def __init__(self, why: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rap-demo-", ignore_cleanup_errors=True)
        self.url = f"file://{self._folder.name}"
        self.title = f"files ({why})"

    async def start(self) -> None:
        """Do nothing: the directory is there."""

    async def restart(self) -> None:
        """Remove everything; the renewals of the leases make it anew."""
        await asyncio.to_thread(shutil.rmtree, self._folder.name, ignore_errors=True)
        await asyncio.sleep(_OUTAGE)

    async def close(self) -> None:
        """Remove the directory."""
        await asyncio.to_thread(self._folder.cleanup)


def choose_backend(redis: str) -> Backend:
    """Return the registry for ``--redis``.

    Args:
        redis: ``auto`` (a redis-server, if one is found), ``no`` (files), or the URL of a Redis.

    Raises:
        ValueError: It is none of these, or ``$REDIS_SERVER`` is no program.
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
