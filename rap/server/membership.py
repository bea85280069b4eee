"""A server's place in the registry: join, change state, leave."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from rap.address import Address
from rap.clock import Clock
from rap.registry.base import Endpoint, Registry, State, check_name, check_weight
from rap.registry.reports import LoadReport
from rap.server.config import ServerConfig
from rap.server.route import route_address

if TYPE_CHECKING:
    from rap.registry.lease import Lease

__all__ = ["Membership"]

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
