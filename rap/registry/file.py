"""A registry in a directory, for processes on one machine, without a server.

Each service has its own folder, ``<directory>/<namespace>/<service>/``, with one file per
instance. The modification time of a file is the end of its lease. Watchers often check the
modification time of the folder, which costs microseconds, and seldom the leases.
"""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rap.clock import Clock, SystemClock
from rap.errors import RegistryError
from rap.foreign import one_line
from rap.registry.base import (
    AddressTaken,
    Endpoint,
    Snapshot,
    check_name,
    is_name,
    may_replace,
)
from rap.registry.folder import TrustedFolder, write_new
from rap.registry.process import suspect_ended
from rap.registry.records import BadRecords, from_record, to_record
from rap.registry.self_preservation import as_snapshot, to_evict

__all__ = ["FileRegistry", "LeaseFiles"]


logger = logging.getLogger("rap.registry")

_LOCK_TIMEOUT = 1.0  # seconds; the process that holds it may be stopped
_LOCK_RETRY = 0.005  # seconds
_ATTEMPTS = 3  # to write, if the folder is removed meanwhile
_POLL_INTERVAL = 0.03  # seconds between checks of the folder's modification time
_READ_INTERVAL = 0.5  # seconds between reads of all leases, unless the folder changed
_NANOSECONDS = 1_000_000_000
_SETTLED = 50_000_000  # ns; a folder changed so recently may change again in the same clock tick


class FileRegistry:
    """A registry in a directory of this machine. Registering needs POSIX file locks.

    If the directory is removed, the last snapshot remains valid, and the next renewal of each
    lease creates the directory again. A file that is not a record is ignored, with one warning.

    Args:
        directory: Absolute path; created by the first registration.
        namespace: Separates environments.
        clock: Time source: `time` for leases, `monotonic` and `sleep` for polling.

    Attributes:
        last_error: The reason why the directory cannot be read; empty if it can.
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
        self.last_error = ""

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Write or renew a registration that is valid for `ttl` seconds.

        Raises:
            AddressTaken: Another incarnation holds the address.
            RegistryError: The directory cannot be written.
        """
        try:
            await asyncio.to_thread(self._files_of(service).write, endpoint, ttl)
        except OSError as exc:
            raise RegistryError(f"cannot register in {self._root}: {exc}") from exc

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Remove the registration of this incarnation, if it exists.

        Raises:
            RegistryError: The directory cannot be written.
        """
        try:
            await asyncio.to_thread(self._files_of(service).remove, endpoint)
        except OSError as exc:
            raise RegistryError(f"cannot deregister in {self._root}: {exc}") from exc

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield a snapshot now and after each change."""
        return self._watch(self._files_of(service))

    @property
    def place(self) -> str:
        """What this reads, for errors."""
        return f"file://{self._root.parent}, namespace {self._root.name!r}"

    async def services(self) -> list[str]:
        """Return the names of all services ever registered in this namespace, sorted.

        Folders whose names cannot be those of services are left out.

        Raises:
            RegistryError: The directory cannot be read.
        """
        try:
            found = await asyncio.to_thread(lambda: list(self._root.glob("*/.known")))
        except OSError as exc:
            raise RegistryError(f"cannot read {self._root}: {exc}") from exc
        return sorted(filter(is_name, (path.parent.name for path in found)))

    async def aclose(self) -> None:
        """Do nothing: no file stays open."""

    def _files_of(self, service: str) -> "LeaseFiles":
        files = self._files.get(check_name("service", service))
        if files is None:
            files = self._files[service] = LeaseFiles(self._root / service, self._clock.time)
        return files

    async def _watch(self, files: "LeaseFiles") -> AsyncGenerator[Snapshot, None]:
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
                    if not self.last_error:
                        logger.warning(
                            "cannot read %s, keeping the last known set: %s", self._root, exc
                        )
                    snapshot, self.last_error = None, f"cannot read {self._root}: {exc}"
                else:
                    self.last_error = ""
                if snapshot is None and last is None:
                    snapshot = {}
                if snapshot is not None and snapshot != last:
                    last = snapshot
                    yield snapshot
            await self._clock.sleep(_POLL_INTERVAL)


class LeaseFiles:
    """The folder of one service. The methods block; call them in a thread.

    Args:
        folder: Its path; created by the first `write`.
        now: Returns seconds since the epoch.
    """

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self._folder = folder
        self._trusted = TrustedFolder(folder, folder.parent, folder.parent.parent)
        self._now = now
        self._bad = BadRecords()

    def write(self, endpoint: Endpoint, ttl: float) -> None:
        """Write or renew a registration, and remove those of dead instances.

        Raises:
            AddressTaken: Another incarnation holds the address.
            OSError: The folder cannot be written.
            RegistryError: Another process holds the lock too long.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._trusted.make()
                with self._locked():
                    self._write(endpoint, ttl)
                return
            except FileNotFoundError:
                if attempt == _ATTEMPTS:
                    raise

    def remove(self, endpoint: Endpoint) -> None:
        """Remove the registration of this incarnation, if it exists.

        Raises:
            OSError: The folder cannot be written.
            RegistryError: Another process holds the lock too long.
        """
        path = self._path(endpoint.id)
        with suppress(FileNotFoundError), self._locked():
            held = self._read(path)
            if held is not None and held[0].incarnation == endpoint.incarnation:
                path.unlink()

    def snapshot(self) -> Snapshot | None:
        """Return the snapshot; `None` if no instance has ever registered.

        Instances whose process has ended are SUSPECT, though their leases are valid.

        Raises:
            OSError: The folder cannot be read.
        """
        if not (self._folder / ".known").exists():
            return None
        self._trusted.check()
        found = [held for path in sorted(self._paths()) if (held := self._read(path))]
        now = self._now()
        return suspect_ended(as_snapshot((it, expires - now) for it, expires in found))

    def signature(self) -> tuple[int, int] | None:
        """Return a value that changes whenever a registration is added, changed or removed.

        It costs one `stat`. `None` means that you must read the folder: it does not exist, or it
        was changed too recently for its modification time to show the next change.
        """
        try:
            status = self._folder.stat()
        except OSError:
            return None
        if time.time_ns() - status.st_mtime_ns < _SETTLED:
            return None
        return status.st_ino, status.st_mtime_ns

    def _paths(self) -> list[Path]:
        """Return the files of registrations; a folder or a pipe of such a name is none."""
        return [path for path in self._folder.glob("*.json") if path.is_file()]

    def _path(self, endpoint_id: str) -> Path:
        digest = hashlib.sha256(endpoint_id.encode()).hexdigest()
        return self._folder / f"{digest[:32]}.json"

    def _write(self, endpoint: Endpoint, ttl: float) -> None:
        now = self._now()
        path = self._path(endpoint.id)
        held = self._read(path)
        if held is not None and held[1] > now and not may_replace(endpoint, held[0]):
            raise AddressTaken(endpoint.id, held[1] - now)
        expires = round((now + ttl) * _NANOSECONDS)
        if held is not None and held[0] == endpoint and held[1] > now:
            os.utime(path, ns=(expires, expires))
        else:
            new = self._folder / ".new"  # under the lock, one name is enough
            write_new(new, json.dumps({"id": endpoint.id, **to_record(endpoint)}))
            os.utime(new, ns=(expires, expires))
            new.replace(path)
        self._evict(now)
        (self._folder / ".known").touch()

    def _evict(self, now: float) -> None:
        leases = {str(path): path.stat().st_mtime for path in self._paths()}
        expired = {name: now - expires for name, expires in leases.items() if expires <= now}
        for name in to_evict(expired, len(leases)):
            Path(name).unlink(missing_ok=True)

    def _read(self, path: Path) -> tuple[Endpoint, float] | None:
        """Return endpoint and end of lease; `None` for a file that is gone or is not a record."""
        try:
            expires = path.stat().st_mtime
            record = json.loads(path.read_bytes())
            endpoint_id = record.get("id") if isinstance(record, dict) else None
            if not isinstance(endpoint_id, str):
                raise ValueError(f"field id must be text, got {one_line(repr(endpoint_id))}")
            return from_record(endpoint_id, record), expires
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as exc:
            self._bad.warn(str(path), "%s is ignored, it is not a registration: %s", exc)
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder.

        Raises:
            FileNotFoundError: The folder was removed or replaced.
            RegistryError: Another process holds the lock too long.
        """
        import fcntl  # not available on every system; reading needs no lock

        path = self._folder / ".lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o664)
        try:
            give_up = time.monotonic() + _LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise RegistryError(
                            f"another process has held {path} for {_LOCK_TIMEOUT:g} s"
                        ) from None
                    time.sleep(_LOCK_RETRY)
            if os.fstat(handle).st_ino != path.stat().st_ino:
                raise FileNotFoundError(f"{path} was replaced")
            yield
        finally:
            os.close(handle)
