"""What discovery is made of: endpoints, snapshots, and the two protocols around them."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from rap.address import Address

__all__ = [
    "Endpoint",
    "Registry",
    "Resolver",
    "Snapshot",
    "State",
    "check_name",
    "check_ttl",
    "check_weight",
    "trouble_of",
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

    It may have an attribute ``trouble`` that says why it has no answer now, empty while it has one:
    errors of calls that find no server tell it, so it must name no password.
    """

    def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Yield whole sets: the first as soon as it is known, then one per change.

        Never ends by itself and never raises for an unreachable registry: the last set stands.
        Close it with `aclose`.
        """

    async def aclose(self) -> None:
        """Release connections; watches must be closed before."""


class Registry(Resolver, Protocol):
    """Where servers register, and clients watch."""

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Write or renew a registration that stands for `ttl` seconds.

        Raises:
            RegistryError: The registry cannot be reached, or another process holds the address.
        """

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Remove the registration of this incarnation; nothing happens if it is not there."""


def trouble_of(resolver: object) -> str:
    """Return why a resolver has no answer now, as far as it says so."""
    return str(getattr(resolver, "trouble", ""))


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
