"""A registry of files in one directory, for many processes on one machine and no server.

Each service has a folder of its own below ``<directory>/<namespace>/``. Watchers look at the
modification time of that folder often, since it costs microseconds, and at the leases seldom.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from rap.clock import Clock, SystemClock
from rap.errors import RegistryError
from rap.registry.base import Endpoint, Snapshot, check_name
from rap.registry.lease_files import LeaseFiles

__all__ = ["FileRegistry"]

logger = logging.getLogger("rap.registry")

_LOOK_INTERVAL = 0.03  # seconds between looks at the folder's modification time
_READ_INTERVAL = 0.5  # seconds between looks at all leases, unless the folder changed


class FileRegistry:
    """A registry in a directory of this machine; registering needs POSIX file locks.

    When the directory is removed the last known set stands, and the next renewal of each lease
    makes it anew. A file that cannot be read as a record is ignored, with one warning.

    Args:
        directory: Absolute path; made by the first registration.
        namespace: Keeps environments apart.
        clock: Time source; `time` for leases, `monotonic` and `sleep` between looks.

    Attributes:
        trouble: Why it cannot be read now; empty while it can.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        namespace: str = "default",
        clock: Clock | None = None,
    ) -> None:
        root = Path(directory)
        if not root.is_absolute():
            raise ValueError(f"directory must be an absolute path, got {str(directory)!r}")
        self._root = root / check_name("namespace", namespace)
        self._clock = clock or SystemClock()
        self._files: dict[str, LeaseFiles] = {}
        self.trouble = ""

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Write or renew a registration that stands for `ttl` seconds.

        Raises:
            AddressTaken: Another incarnation holds the address.
            RegistryError: The directory cannot be written.
        """
        try:
            await asyncio.to_thread(self._of(service).write, endpoint, ttl)
        except OSError as exc:
            raise RegistryError(f"cannot register in {self._root}: {exc}") from exc

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Remove the registration of this incarnation; nothing happens if it is not there.

        Raises:
            RegistryError: The directory cannot be written.
        """
        try:
            await asyncio.to_thread(self._of(service).remove, endpoint)
        except OSError as exc:
            raise RegistryError(f"cannot deregister in {self._root}: {exc}") from exc

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield the set of endpoints now and after each change."""
        return self._watch(self._of(service))

    async def services(self) -> list[str]:
        """Return the names of the services ever registered in this namespace, sorted.

        Raises:
            RegistryError: The directory cannot be read.
        """
        try:
            found = await asyncio.to_thread(lambda: list(self._root.glob("*/.known")))
        except OSError as exc:
            raise RegistryError(f"cannot read {self._root}: {exc}") from exc
        return sorted(path.parent.name for path in found)

    async def aclose(self) -> None:
        """Do nothing: no file is kept open."""

    def _of(self, service: str) -> LeaseFiles:
        files = self._files.get(check_name("service", service))
        if files is None:
            files = self._files[service] = LeaseFiles(self._root / service, self._clock.time)
        return files

    async def _watch(self, files: LeaseFiles) -> AsyncGenerator[Snapshot, None]:
        last: Snapshot | None = None
        seen: tuple[int, int] | None = None
        due = self._clock.monotonic()
        while True:
            signature = files.signature()
            if signature is None or signature != seen or self._clock.monotonic() >= due:
                seen, due = signature, self._clock.monotonic() + _READ_INTERVAL
                try:
                    snapshot = await asyncio.to_thread(files.snapshot)
                except OSError as exc:
                    if not self.trouble:
                        logger.warning("cannot read %s, its last set stands: %s", self._root, exc)
                    snapshot, self.trouble = None, f"cannot read {self._root}: {exc}"
                else:
                    self.trouble = ""
                if snapshot is None and last is None:
                    snapshot = {}
                if snapshot is not None and snapshot != last:
                    last = snapshot
                    yield snapshot
            await self._clock.sleep(_LOOK_INTERVAL)
