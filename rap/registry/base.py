"""What discovery is made of: endpoints, snapshots, and the two protocols around them."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from rap.address import Address
from rap.errors import RegistryError

__all__ = [
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
    "check_ttl",
    "check_weight",
    "diff",
    "last_error_of",
]


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MIN_TTL, _MAX_TTL = 0.1, 86_400.0  # seconds; a registry may forget what is silent for a day
_EMPTY: Mapping[str, str] = MappingProxyType({})


class State(StrEnum):
    """Whether an instance may get new calls."""

    UP = "up"
    DRAINING = "draining"
    SUSPECT = "suspect"  # its lease ran out, its record is still there


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One instance of a service, as the registry knows it.

    Args:
        id: The advertised address as text; key of a `Snapshot`.
        address: Where to dial it.
        weight: Relative capacity, 1 to 1000.
        state: Whether it may get new calls.
        incarnation: Random per process start; empty when unknown (a static list).
        zone: Name of the failure domain; empty when unknown.
        metadata: String to string.
    """

    id: str
    address: Address
    weight: int = 1
    state: State = State.UP
    incarnation: str = ""
    zone: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: _EMPTY, hash=False)


# Endpoint id to endpoint. Treat as immutable.
Snapshot = Mapping[str, Endpoint]


class Resolver(Protocol):
    """Where clients watch a service.

    A resolver may have an attribute ``last_error``: the reason why it has no answer now, or an
    empty text while it has one. Errors of calls that find no server quote it, so it must not
    contain a password.
    """

    def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Yield whole sets: the first as soon as it is known, then one per change.

        Never ends by itself and never raises for an unreachable registry: the last set stands.
        Close it with `aclose`.
        """
        ...

    async def aclose(self) -> None:
        """Release connections; watches must be closed before."""
        ...


class Registry(Resolver, Protocol):
    """Where servers register, and clients watch."""

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Write or renew a registration that stands for `ttl` seconds.

        Raises:
            RegistryError: The registry cannot be reached, or another process holds the address.
        """
        ...

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Remove the registration of this incarnation; nothing happens if it is not there."""
        ...


def last_error_of(resolver: object) -> str:
    """Return why a resolver has no answer now, as far as it says so."""
    return str(getattr(resolver, "last_error", ""))


def check_name(option: str, value: object) -> str:
    """Return a service or namespace name.

    Raises:
        ValueError: It does not match ``[A-Za-z0-9][A-Za-z0-9._-]{0,63}``.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{option} must match [A-Za-z0-9][A-Za-z0-9._-]{{0,63}}, got {value!r}")
    return value


def check_weight(value: object, *, option: str = "weight") -> int:
    """Return a weight.

    Raises:
        ValueError: It is no integer from 1 to 1000.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        hint = "; to take a server out use set_serving(False)" if value == 0 else ""
        raise ValueError(f"{option} must be an integer from 1 to 1000, got {value!r}{hint}")
    return value


def check_ttl(value: object, *, option: str = "ttl") -> float:
    """Return the time to live of a registration, in seconds.

    Raises:
        ValueError: It is no number from 0.1 to 86,400.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{option} must be a number of seconds, got {value!r}")
    if not _MIN_TTL <= value <= _MAX_TTL:
        raise ValueError(f"{option} must be {_MIN_TTL:g} to {_MAX_TTL:g} seconds, got {value!r}")
    return float(value)


@dataclass(frozen=True, slots=True)
class Change:
    """The step from one snapshot to the next; false when there is none.

    Args:
        added: Endpoints that only the new snapshot has.
        updated: Endpoints of both whose weight, state or anything else differs, as they are now.
        removed: Endpoints that only the old snapshot had.
    """

    added: tuple[Endpoint, ...] = ()
    updated: tuple[Endpoint, ...] = ()
    removed: tuple[Endpoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.removed)


def diff(old: Snapshot, new: Snapshot) -> Change:
    """Return what turns `old` into `new`, each part in the order of its snapshot."""
    return Change(
        added=tuple(endpoint for key, endpoint in new.items() if key not in old),
        updated=tuple(
            endpoint for key, endpoint in new.items() if key in old and old[key] != endpoint
        ),
        removed=tuple(endpoint for key, endpoint in old.items() if key not in new),
    )


class LeaseLost(RegistryError):
    """The registry no longer knows the registration; the next `register` writes it in full.

    It comes from a registry that many instances lost at once (emptied, failed over with lost
    writes), so whoever sees it waits a random part of a renewal interval first.
    """

    def __init__(self, endpoint_id: str) -> None:
        super().__init__(f"the registry has lost the registration of {endpoint_id}")
        self.endpoint_id = endpoint_id


class AddressTaken(RegistryError):
    """Another living process is registered under the same address.

    Args:
        endpoint_id: The address.
        retry_after: Seconds until the lease of the other runs out, if it does not renew it.
    """

    def __init__(self, endpoint_id: str, retry_after: float) -> None:
        super().__init__(
            f"another process is registered as {endpoint_id}; its lease stands for another "
            f"{retry_after:.1f} s: give each server an address of its own (option advertise)"
        )
        self.endpoint_id = endpoint_id
        self.retry_after = retry_after


# Small figures of one instance, such as in_flight, rps, util, conns.
LoadReport = Mapping[str, float]


@runtime_checkable
class Reports(Protocol):
    """A registry that can also be asked what runs in it; for `rap top` and the console."""

    def report_load(self, service: str, endpoint_id: str, load: LoadReport) -> None:
        """Keep the load of an instance; it travels with the next renewal of its lease."""
        ...

    async def loads(self, service: str) -> Mapping[str, LoadReport]:
        """Return endpoint id to the load it last reported.

        Raises:
            RegistryError: The registry cannot be reached.
        """
        ...

    async def services(self) -> Sequence[str]:
        """Return the names of the services ever registered in this namespace, sorted.

        Raises:
            RegistryError: The registry cannot be reached.
        """
        ...


def check_load(value: object) -> dict[str, float]:
    """Return a load report.

    Raises:
        ValueError: It is no mapping of text to numbers.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"load must be a mapping of names to numbers, got {value!r}")
    for name, figure in value.items():
        if not isinstance(name, str) or isinstance(figure, bool):
            raise ValueError(f"load must map names to numbers, got {name!r}: {figure!r}")
        if not isinstance(figure, int | float):
            raise ValueError(f"load {name!r} must be a number, got {figure!r}")
    return dict(value)
