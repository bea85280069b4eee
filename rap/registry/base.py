"""The values of discovery, and the protocols of resolvers and registries.

A registry maps a service to endpoints. Watchers see it as snapshots, each of them whole.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from rap.address import Address
from rap.errors import RegistryError
from rap.record import Record

__all__ = [
    "FUNCTIONS",
    "WIRE_VERSIONS",
    "AddressTaken",
    "Change",
    "Endpoint",
    "LeaseLost",
    "LoadReport",
    "Registry",
    "Reports",
    "Resolver",
    "Snapshot",
    "State",
    "check_load",
    "check_name",
    "check_registry_key",
    "check_ttl",
    "check_weight",
    "diff",
    "is_name",
    "last_error_of",
    "may_replace",
    "place_of",
]


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MIN_TTL, _MAX_TTL = 0.1, 86_400.0  # seconds; a registry may drop an endpoint silent for a day


WIRE_VERSIONS = "wire"
"""Key in the metadata of an endpoint: the versions of the wire protocol that it speaks."""


FUNCTIONS = "functions"
"""Key in the metadata of an endpoint: the signatures of its functions, as JSON of hash by name."""


class State(StrEnum):
    """Whether an endpoint may get new calls."""

    UP = "up"
    DRAINING = "draining"
    SUSPECT = "suspect"  # its lease has expired, or its process has ended, but its record exists


class Endpoint(Record, frozen=True):
    """One instance of a service in a registry.

    Args:
        id: The advertised address as text; the key in a `Snapshot`.
        address: The address to dial.
        weight: Relative capacity, 1 to 1000.
        state: Whether it may get new calls.
        incarnation: A random text for each start of a process; empty if unknown (a static list).
        zone: The name of its failure domain; empty if unknown.
        metadata: Any texts by name.
    """

    id: str
    address: Address
    weight: int = 1
    state: State = State.UP
    incarnation: str = ""
    zone: str = ""
    metadata: Mapping[str, str] = MappingProxyType({})

    def __hash__(self) -> int:
        return hash((self.id, self.address, self.state, self.incarnation))


# Endpoint id to endpoint. Do not change it.
Snapshot = Mapping[str, Endpoint]


class Change(Record, frozen=True):
    """The difference between two snapshots; false if they are equal.

    Args:
        added: Endpoints that only the new snapshot has.
        updated: Endpoints in both snapshots that differ, as in the new one.
        removed: Endpoints that only the old snapshot has.
    """

    added: tuple[Endpoint, ...] = ()
    updated: tuple[Endpoint, ...] = ()
    removed: tuple[Endpoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.removed)


def diff(old: Snapshot, new: Snapshot) -> Change:
    """Return the difference between two snapshots, each part in the order of its snapshot."""
    return Change(
        added=tuple(endpoint for key, endpoint in new.items() if key not in old),
        updated=tuple(
            endpoint for key, endpoint in new.items() if key in old and old[key] != endpoint
        ),
        removed=tuple(endpoint for key, endpoint in old.items() if key not in new),
    )


class Resolver(Protocol):
    """A source of endpoints that clients watch.

    A resolver may have an attribute ``last_error``: the reason why it has no answer now, or an
    empty text while it has one. Errors of calls that find no server quote it, so it must not
    contain a password.
    """

    def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Yield a snapshot as soon as one is known, then one after each change.

        The iterator never ends by itself. It never raises if the registry is unreachable, and the
        last snapshot remains valid. Close it with `aclose`.
        """
        ...

    async def aclose(self) -> None:
        """Release connections. Close all watches first."""
        ...


class Registry(Resolver, Protocol):
    """A resolver in which servers can register."""

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Write or renew a registration that is valid for `ttl` seconds.

        An endpoint that is UP replaces another process that is DRAINING at once, since that one
        may have been killed. Otherwise, the address is free when the lease of the other process
        expires.

        Raises:
            RegistryError: The registry is unreachable, or another process holds the address.
        """
        ...

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Remove the registration of this incarnation, if it exists."""
        ...


# Numbers of one instance by name, such as in_flight, rps, util, conns.
LoadReport = Mapping[str, float]


@runtime_checkable
class Reports(Protocol):
    """A registry that also keeps load reports and lists services, for `rap top`."""

    def report_load(self, service: str, endpoint_id: str, load: LoadReport) -> None:
        """Store the load of an instance; it is sent with the next renewal of its lease."""
        ...

    async def loads(self, service: str) -> Mapping[str, LoadReport]:
        """Return the last reported load by endpoint id.

        Raises:
            RegistryError: The registry is unreachable.
        """
        ...

    async def services(self) -> Sequence[str]:
        """Return the names of all services ever registered in this namespace, sorted.

        Raises:
            RegistryError: The registry is unreachable.
        """
        ...


def may_replace(new: Endpoint, held: Endpoint) -> bool:
    """Return whether an endpoint may replace one with the same id and a valid lease.

    One that is UP may replace one of another process that is DRAINING. If any could, two that drain
    would take turns.
    """
    return new.incarnation == held.incarnation or (
        new.state is State.UP and held.state is State.DRAINING
    )


class LeaseLost(RegistryError):
    """The registry has lost the registration. The next `register` writes it in full.

    Many instances lose theirs at the same moment if the registry was emptied or failed over with
    lost writes. Wait a random part of a renewal interval before you register again.
    """

    def __init__(self, endpoint_id: str) -> None:
        super().__init__(f"the registry has lost the registration of {endpoint_id}")
        self.endpoint_id = endpoint_id


class AddressTaken(RegistryError):
    """Another process has a valid lease for the same address.

    Args:
        endpoint_id: The address.
        retry_after: Seconds until the lease of the other process expires, unless it is renewed.
    """

    def __init__(self, endpoint_id: str, retry_after: float) -> None:
        super().__init__(
            f"another process is registered as {endpoint_id}; its lease is valid for another "
            f"{retry_after:.1f} s: give each server a different address (option advertise)"
        )
        self.endpoint_id = endpoint_id
        self.retry_after = retry_after


def last_error_of(resolver: object) -> str:
    """Return the ``last_error`` of a resolver; empty if it has no such attribute."""
    return str(getattr(resolver, "last_error", ""))


def place_of(resolver: object) -> str:
    """Return the ``place`` of a resolver; empty if it has no such attribute."""
    return str(getattr(resolver, "place", ""))


def check_name(option: str, value: object) -> str:
    """Return a service or namespace name.

    Raises:
        ValueError: It does not match ``[A-Za-z0-9][A-Za-z0-9._-]{0,63}``.
    """
    if not isinstance(value, str) or not is_name(value):
        raise ValueError(f"{option} must match [A-Za-z0-9][A-Za-z0-9._-]{{0,63}}, got {value!r}")
    return value


def is_name(text: str) -> bool:
    """Return whether a text can be the name of a service or namespace."""
    return _NAME.fullmatch(text) is not None


def check_registry_key(key: object, option: str = "registry_key") -> bytes:
    """Return a key for signatures.

    Raises:
        ValueError: It is not a string or bytes, or too short to be a secret. The message does not
            have the key.
    """
    if not isinstance(key, str | bytes):
        raise ValueError(f"{option} must be a string or bytes, got {type(key).__name__}")
    data = key.encode() if isinstance(key, str) else key
    if len(data) < 16:
        raise ValueError(f"{option} must have at least 16 bytes, got {len(data)}")
    return data


def check_weight(value: object, *, option: str = "weight") -> int:
    """Return a weight.

    Raises:
        ValueError: It is not an integer from 1 to 1000.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        hint = "; to take a server out use set_serving(False)" if value == 0 else ""
        raise ValueError(f"{option} must be an integer from 1 to 1000, got {value!r}{hint}")
    return value


def check_ttl(value: object, *, option: str = "ttl") -> float:
    """Return the time to live of a registration, in seconds.

    Raises:
        ValueError: It is not a number from 0.1 to 86,400.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{option} must be a number of seconds, got {value!r}")
    if not _MIN_TTL <= value <= _MAX_TTL:
        raise ValueError(f"{option} must be {_MIN_TTL:g} to {_MAX_TTL:g} seconds, got {value!r}")
    return float(value)


def check_load(value: object) -> dict[str, float]:
    """Return a load report.

    Raises:
        ValueError: It is not a mapping of text to numbers.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"load must be a mapping of names to numbers, got {value!r}")
    for name, figure in value.items():
        if not isinstance(name, str) or isinstance(figure, bool):
            raise ValueError(f"load must map names to numbers, got {name!r}: {figure!r}")
        if not isinstance(figure, int | float):
            raise ValueError(f"load {name!r} must be a number, got {figure!r}")
    return dict(value)
