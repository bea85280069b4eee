"""A server's place in the registry: join, change state, leave."""

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from rap.address import Address
from rap.clock import Clock
from rap.registry.base import Endpoint, LoadReport, Registry, State, check_name, check_weight
from rap.server.config import ServerConfig

if TYPE_CHECKING:
    from rap.registry.lease import Lease

__all__ = ["Membership", "route_address"]


# Where the route to everywhere leads; addresses of documentation, to which nothing is sent.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_DISCARD = 9  # the port, which has no part in a route
_PATIENCE = 1.0  # seconds for the name of the registry to be resolved


async def route_address(wildcard: str, registry: Address | None) -> str:
    """Return the local address of the route to the registry; no packet is sent there.

    Without a registry that has an address, or one of this family, it is that of the route to
    other hosts, and without such a route the loopback address. So it is if the name of a registry
    means this machine: others know it by another address.

    Args:
        wildcard: What is listened on, ``0.0.0.0`` or ``::``.
        registry: Where it is; `None` if unknown.
    """
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    loopback = registry is not None and registry.is_loopback
    hosts = [_ELSEWHERE[family]]
    if registry is not None and registry.scheme != "unix":
        hosts = [*await _resolved(registry.host, family), *hosts]
    for host in hosts:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((host, _DISCARD))
                found = str(sock.getsockname()[0])
            except OSError:
                continue
            if loopback or not ipaddress.ip_address(found).is_loopback:
                return found
    return _LOOPBACK[family]


async def _resolved(host: str, family: socket.AddressFamily) -> list[str]:
    """Return the addresses of a host in one family; none if they cannot be found out soon."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_PATIENCE):
            found = await loop.getaddrinfo(host, _DISCARD, family=family, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # TimeoutError is one of the former
        return []
    return [str(name[0]) for *_, name in found]


_log = logging.getLogger("rap.registry")


class Membership:
    """Keeps one server registered while it runs; does nothing without a registry.

    Args:
        registry: URL or object; `None` for a server that clients find by address.
        service: Name of the service; goes together with `registry`.
        weight: Relative capacity, 1 to 1000.
        zone: Name of the failure domain.
        advertise: Address that clients dial; by default what was bound, of a wildcard the local
            address of the route to the registry. Port 0 is the bound one.
        config: Options of the server.
        incarnation: Random name of this process's start.
        clock: Source of time.
        rng: Source of jitter.

    Raises:
        ValueError: A name, weight or address is bad, or one of registry and service is missing.
    """

    def __init__(
        self,
        registry: str | Registry | None,
        service: str | None,
        *,
        weight: int,
        zone: str,
        advertise: str | None,
        config: ServerConfig,
        incarnation: str,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        if registry is not None and service is None:
            raise ValueError("registry needs service: the name under which to register")
        self._service = check_name("service", service) if service is not None else ""
        self._weight = check_weight(weight)
        if not isinstance(zone, str):
            raise ValueError(f"zone must be a string, got {zone!r}")
        self._zone = zone
        self._advertise = (
            None if advertise is None else Address.parse(advertise, option="advertise")
        )
        self._config = config
        self._incarnation = incarnation
        self._clock = clock
        self._rng = rng
        self._owned = isinstance(registry, str)
        found: object = registry
        if isinstance(registry, str):
            from rap.registry.url import registry_from_url  # a server on its own needs none

            found = registry_from_url(registry)
        if found is not None and not hasattr(found, "watch"):
            raise ValueError(f"registry must be a URL or a Registry, got {registry!r}")
        if found is not None and not hasattr(found, "register"):
            raise ValueError(f"registry {registry!r} only lists servers; none can register there")
        self._registry = cast(Registry | None, found)
        self._lease: Lease | None = None

    @property
    def configured(self) -> bool:
        """Whether the server is to be registered."""
        return self._registry is not None

    def move_advertised(self, ports: int) -> None:
        """Advertise a port so many higher; before joining."""
        address = self._advertise
        if address is not None and address.port:
            self._advertise = replace(address, port=address.port + ports)

    @property
    def active(self) -> bool:
        """Whether the server is registered."""
        return self._lease is not None

    @property
    def lease(self) -> "Lease | None":
        """What keeps it registered, while it is."""
        return self._lease

    async def join(
        self, bound: Sequence[Address], load: Callable[[], LoadReport], *, draining: bool = False
    ) -> None:
        """Register and keep the registration alive.

        Returns after the first attempt; one that failed is logged, and made again.

        Args:
            bound: What is listened on.
            load: Gives the load to report with each renewal.
            draining: The server begins out of rotation.
        """
        if self._registry is None:
            return
        address = await self._advertised(bound)
        state = State.DRAINING if draining else State.UP
        endpoint = Endpoint(
            str(address), address, self._weight, state, self._incarnation, self._zone
        )
        from rap.registry.lease import Lease

        self._lease = Lease(
            self._registry,
            self._service,
            endpoint,
            ttl=self._config.lease_ttl,
            clock=self._clock,
            rng=self._rng,
            load=load,
        )
        await self._lease.start()

    async def announce(self, state: State) -> None:
        """Publish a change of state; a registry that is down hears of it when it is back."""
        if self._lease is not None:
            await self._lease.update(replace(self._lease.endpoint, state=state))

    async def leave(self) -> None:
        """Remove the registration."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.close()
        if self._owned and self._registry is not None:
            await self._registry.aclose()

    async def _advertised(self, bound: Sequence[Address]) -> Address:
        address = self._advertise or bound[0]
        if address.scheme != "unix" and not address.port:
            address = replace(address, port=bound[0].port)
        registry = getattr(self._registry, "location", None)
        if not isinstance(registry, Address):
            registry = None
        if address.is_wildcard:
            address = replace(address, host=await route_address(address.host, registry))
        if self._advertise is None and address.is_loopback and _is_elsewhere(registry):
            _log.warning(
                "the server advertises %s, which clients on other hosts cannot reach; "
                "pass advertise=",
                address,
            )
        return address


def _is_elsewhere(registry: Address | None) -> bool:
    return registry is not None and not registry.is_loopback
