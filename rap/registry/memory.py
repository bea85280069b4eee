"""A registry inside one process."""

import threading
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from rap.clock import Clock, SystemClock
from rap.notify import Notify
from rap.registry.base import (
    AddressTaken,
    Endpoint,
    LoadReport,
    Snapshot,
    check_load,
    check_name,
    may_replace,
)
from rap.registry.self_preservation import DEAD_AFTER, as_snapshot, to_evict

__all__ = ["MemoryRegistry"]

_LEAST_PAUSE = 0.001  # seconds between two looks at leases; a shorter one may be rounded to none


@dataclass(slots=True)
class _Member:
    endpoint: Endpoint
    expires: float  # seconds on the monotonic clock
    load: LoadReport = field(default_factory=dict)


@dataclass(slots=True)
class _Service:
    members: dict[str, _Member] = field(default_factory=dict)
    watchers: set[Notify] = field(default_factory=set)


class _Space:
    """The services that registries with one name share, for event loops in several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.services: dict[tuple[str, str], _Service] = {}


# A name has one space as long as a registry with that name exists.
_spaces: WeakValueDictionary[str, _Space] = WeakValueDictionary()
_spaces_lock = threading.Lock()


def _shared_space(name: str) -> _Space:
    with _spaces_lock:
        return _spaces.setdefault(name, _Space())


class MemoryRegistry:
    """A registry for the servers and clients of one process.

    Leases, refusals and the removal of silent instances follow the same rules as in the other
    registries, so you can use it in tests and in programs that contain a whole cluster.

    Args:
        name: Registries with the same name in this process share their registrations. With
            `None`, the registrations belong to this object alone.
        namespace: Separates environments.
        clock: Time source of leases; only `monotonic` and `sleep` are used.
    """

    def __init__(
        self, name: str | None = None, *, namespace: str = "default", clock: Clock | None = None
    ) -> None:
        self._namespace = check_name("namespace", namespace)
        self._clock = clock or SystemClock()
        self._space = _Space() if name is None else _shared_space(name)

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Write or renew a registration that is valid for `ttl` seconds.

        Raises:
            AddressTaken: Another incarnation holds the address.
        """
        now = self._clock.monotonic()
        with self._space.lock:
            found = self._service(service)
            held = found.members.get(endpoint.id)
            if held is None:
                held = found.members[endpoint.id] = _Member(endpoint, now)
            elif held.expires > now and not may_replace(endpoint, held.endpoint):
                raise AddressTaken(endpoint.id, held.expires - now)
            changed = held.endpoint != endpoint or held.expires <= now
            held.endpoint, held.expires = endpoint, now + ttl
            changed |= _evict(found.members, now)
            if changed:
                _notify_watchers(found)

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Remove the registration of this incarnation, if it exists."""
        with self._space.lock:
            found = self._service(service)
            held = found.members.get(endpoint.id)
            if held is not None and held.endpoint.incarnation == endpoint.incarnation:
                del found.members[endpoint.id]
                _notify_watchers(found)

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield a snapshot now and after each change."""
        with self._space.lock:
            found = self._service(service)
        return self._watch(found)

    def report_load(self, service: str, endpoint_id: str, load: LoadReport) -> None:
        """Store the load of an instance, if it is registered."""
        report = check_load(load)
        with self._space.lock:
            held = self._service(service).members.get(endpoint_id)
            if held is not None:
                held.load = report

    async def loads(self, service: str) -> Mapping[str, LoadReport]:
        """Return the last reported load by endpoint id."""
        with self._space.lock:
            members = self._service(service).members
            return {key: member.load for key, member in members.items() if member.load}

    @property
    def place(self) -> str:
        """What this reads, for errors."""
        return "memory:// has the servers of this process alone; for others use file:// or redis://"

    async def services(self) -> list[str]:
        """Return the names of all services that have instances, sorted."""
        with self._space.lock:
            found = self._space.services.items()
            return sorted(
                name for (space, name), it in found if space == self._namespace and it.members
            )

    async def aclose(self) -> None:
        """Do nothing: other registries with this name keep the registrations."""

    def _service(self, name: str) -> _Service:
        """Return the service with a name, which is checked once; call it with the lock."""
        key = (self._namespace, name)
        found = self._space.services.get(key)
        if found is None:
            check_name("service", name)
            found = self._space.services[key] = _Service()
        return found

    async def _watch(self, service: _Service) -> AsyncGenerator[Snapshot, None]:
        notify = Notify(self._clock)
        with self._space.lock:
            service.watchers.add(notify)
        last: Snapshot | None = None
        try:
            while True:
                snapshot, pause = self._read(service)
                if snapshot != last:
                    last = snapshot
                    yield snapshot
                else:  # after a yield, time has passed
                    await notify.wait(pause)
        finally:
            with self._space.lock:
                service.watchers.discard(notify)

    def _read(self, service: _Service) -> tuple[Snapshot, float | None]:
        """Return the current snapshot, and the seconds until it changes by itself."""
        now = self._clock.monotonic()
        with self._space.lock:
            leases = [(it.endpoint, it.expires - now) for it in service.members.values()]
        ends = (left if left > 0 else left + DEAD_AFTER for _, left in leases)
        next_end = min((left for left in ends if left > 0), default=None)
        return as_snapshot(leases), None if next_end is None else max(next_end, _LEAST_PAUSE)


def _evict(members: dict[str, _Member], now: float) -> bool:
    """Remove instances that are dead; return whether there were any."""
    expired = {key: now - it.expires for key, it in members.items() if it.expires <= now}
    if not expired:
        return False
    gone = to_evict(expired, len(members))
    for key in gone:
        del members[key]
    return bool(gone)


def _notify_watchers(service: _Service) -> None:
    for watcher in service.watchers:
        watcher.notify_threadsafe()
