"""The last snapshot of each service in a file, so that clients can start while discovery is down.

An outage of discovery must not leave a client without servers, even if the client starts during
the outage. It starts with the snapshot of an earlier run and finds out by connecting which of the
servers are still alive.
"""

import asyncio
import json
import logging
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import cast

from rap.clock import Clock, SystemClock
from rap.foreign import one_line
from rap.registry.base import Resolver, Snapshot, check_name, last_error_of, place_of
from rap.registry.folder import TrustedFolder, write_new
from rap.registry.records import from_record, to_record
from rap.tasks import start_task

__all__ = ["CachedResolver", "SnapshotCache"]

logger = logging.getLogger("rap.registry")

_PATIENCE = 1.0  # seconds that the registry has for its first answer


class SnapshotCache:
    """A directory with one file per service, which is replaced by an atomic rename.

    Empty snapshots are not stored. An error with the files is logged once and never raised.

    Args:
        directory: Absolute path; created by the first write. Many processes may share it.
        namespace: Part of the file names.
        patience: Seconds that the first answer may take before the stored snapshot is used.
        clock: Time source of `patience`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        namespace: str = "default",
        patience: float = _PATIENCE,
        clock: Clock | None = None,
    ) -> None:
        self._directory = Path(directory)
        if not self._directory.is_absolute():
            raise ValueError(f"cache must be an absolute path, got {str(directory)!r}")
        self._namespace = check_name("namespace", namespace)
        self._patience = patience
        self._clock = clock or SystemClock()
        self._warned = False
        self._trusted = TrustedFolder(self._directory)

    async def over(
        self, service: str, snapshots: AsyncGenerator[Snapshot, None]
    ) -> AsyncGenerator[Snapshot, None]:
        """Yield and store `snapshots`; start with the stored one if the first is late or empty.

        A registry that has just lost its data gives an empty first answer.
        """
        kept: Snapshot = {}
        async with aclosing(snapshots):
            first = start_task(_next(snapshots))
            try:
                if not await self._in_time(first):
                    kept = await asyncio.to_thread(self.load, service)
                    if kept:
                        yield kept
                snapshot = await first
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            if not kept or (snapshot and snapshot != kept):
                await asyncio.to_thread(self.save, service, snapshot)
                yield snapshot
            async for snapshot in snapshots:
                await asyncio.to_thread(self.save, service, snapshot)
                yield snapshot

    def load(self, service: str) -> Snapshot:
        """Return the stored snapshot, or an empty one. It blocks; call it in a thread."""
        path = self._path(service)
        try:
            kept = json.loads(path.read_bytes())
            self._trusted.check()
            if not isinstance(kept, dict):
                raise ValueError(f"must hold an object, got {type(kept).__name__}")
            return {key: from_record(key, record) for key, record in kept.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            self._warn("read", path, exc)
            return {}

    def save(self, service: str, snapshot: Snapshot) -> None:
        """Store a snapshot unless it is empty. It blocks; call it in a thread."""
        if not snapshot:
            return
        path = self._path(service)
        text = json.dumps({key: to_record(endpoint) for key, endpoint in snapshot.items()})
        new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            self._trusted.make()
            write_new(new, text)
            new.replace(path)
        except OSError as exc:
            self._warn("write", path, exc)

    async def _in_time(self, first: "asyncio.Task[Snapshot]") -> bool:
        """Return whether the first answer came in time and is not empty."""
        timer = start_task(self._clock.sleep(self._patience))
        try:
            await asyncio.wait((first, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)
        return first.done() and bool(first.result())

    def _path(self, service: str) -> Path:
        # No name contains "@", so two pairs of names never share a file.
        return self._directory / f"{check_name('service', service)}@{self._namespace}.json"

    def _warn(self, verb: str, path: Path, exc: Exception) -> None:
        if not self._warned:
            self._warned = True
            text = "cannot %s the cache %s, continuing without it: %s"
            logger.warning(text, verb, path, one_line(exc))


class CachedResolver:
    """A resolver that stores its snapshots in a cache and starts from it during an outage."""

    def __init__(self, resolver: Resolver, cache: SnapshotCache) -> None:
        self._resolver = resolver
        self._cache = cache

    @property
    def last_error(self) -> str:
        """The reason why the resolver has no answer now; empty if it has one."""
        return last_error_of(self._resolver)

    @property
    def place(self) -> str:
        """What the resolver reads."""
        return place_of(self._resolver)

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield the stored snapshot if the first answer is late, then those of the resolver."""
        # A watch has `aclose`, but of the types only the one of a generator says so.
        snapshots = cast("AsyncGenerator[Snapshot, None]", self._resolver.watch(service))
        return self._cache.over(service, snapshots)

    async def aclose(self) -> None:
        """Release the resolver's connections."""
        await self._resolver.aclose()


async def _next(snapshots: AsyncGenerator[Snapshot, None]) -> Snapshot:
    return await anext(snapshots)
