"""The registration of a server in its registry: register, change the state, deregister."""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from rap.address import Address
from rap.clock import Clock
from rap.registry.base import (
    FUNCTIONS,
    WIRE_VERSIONS,
    Endpoint,
    LoadReport,
    Registry,
    State,
    check_name,
    check_registry_key,
    check_weight,
)
from rap.server.config import ServerConfig
from rap.wire.hello import VERSIONS

if TYPE_CHECKING:
    from rap.registry.lease import Lease
    from rap.schema.reflection import Registered

__all__ = ["Registration", "route_address"]

_log = logging.getLogger("rap.registry")

# Hosts for which the route to other machines is looked up. The addresses are reserved for
# documentation (RFC 5737, RFC 3849); nothing is sent to them.
_REMOTE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_PORT = 9  # any port will do: it does not affect the route
_RESOLVE_TIMEOUT = 1.0  # seconds to resolve the host name of the registry


class Registration:
    """The entry of one server in its registry. Without a registry it does nothing.

    Args:
        registry: URL or object; `None` for a server that clients find by its address.
        service: Name of the service; required with `registry`.
        weight: Relative capacity, 1 to 1000.
        zone: Name of the failure domain.
        advertise: Address that clients dial. By default it is the bound address; if that is a
            wildcard, the local address of the route to the registry. Port 0 stands for the bound
            port.
        config: Options of the server.
        incarnation: Random id of this run of the server.
        clock: Source of time.
        rng: Source of jitter.

    Raises:
        ValueError: A name, the weight or an address is invalid, `service` is missing, or the
            registry cannot register servers.
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
        self._url = registry if isinstance(registry, str) else None
        found: object = registry
        if isinstance(registry, str):
            from rap.registry.url import registry_from_url  # only needed with a registry

            found = registry_from_url(registry)
        if found is not None and not hasattr(found, "watch"):
            raise ValueError(f"registry must be a URL or a Registry, got {registry!r}")
        if found is not None and not hasattr(found, "register"):
            raise ValueError(
                f"registry {registry!r} only lists servers, none can register there; use file:// or"
                f" redis://, or no registry"
            )
        self._registry = cast(Registry | None, found)
        self._lease: Lease | None = None

    @property
    def is_configured(self) -> bool:
        """Whether the server has a registry."""
        return self._registry is not None

    @property
    def is_registered(self) -> bool:
        """Whether the server has registered and not deregistered."""
        return self._lease is not None

    @property
    def pending(self) -> str | None:
        """Why the server has not been registered since its start.

        `None` if it has been, whatever the registry does now, or if there is no registry.
        """
        if self._registry is None:
            return None
        lease = self._lease
        if lease is None:
            return "the server is starting or has stopped"
        if lease.has_registered:
            return None
        return "the registry has not answered yet" if lease.error is None else str(lease.error)

    @property
    def lease(self) -> "Lease | None":
        """The lease that keeps the server registered, while it is."""
        return self._lease

    def reset(self, incarnation: str) -> None:
        """Be ready to register again, as another run of the server."""
        self._incarnation = incarnation
        if self._url is not None:
            from rap.registry.url import registry_from_url

            self._registry = cast(Registry, registry_from_url(self._url))

    def move_advertised(self, ports: int) -> None:
        """Raise the advertised port by `ports`; call it before `register`."""
        address = self._advertise
        if address is not None and address.port:
            self._advertise = address.replace(port=address.port + ports)

    async def register(
        self,
        bound: Sequence[Address],
        load: Callable[[], LoadReport],
        *,
        draining: bool = False,
        functions: "Iterable[Registered]" = (),
    ) -> None:
        """Register the server and keep the registration alive.

        Returns after the first attempt. If that fails, the failure is logged and the attempt is
        repeated in the background.

        Args:
            bound: Addresses that the server listens on.
            load: Returns the load to report with each renewal.
            draining: Register with the state DRAINING.
            functions: The functions of the server, whose signatures are registered.
        """
        if self._registry is None:
            return
        address = await self._advertised(bound)
        from rap.registry.lease import Lease
        from rap.registry.process import MARK, process_mark
        from rap.schema.registered import signatures_text

        state = State.DRAINING if draining else State.UP
        mark = process_mark()
        endpoint = Endpoint(
            str(address),
            address,
            self._weight,
            state,
            self._incarnation,
            self._zone,
            {
                WIRE_VERSIONS: str(VERSIONS),
                FUNCTIONS: signatures_text(functions),
                **({MARK: mark} if mark else {}),
            },
        )

        sign = None
        if self._config.registry_key is not None:
            from rap.registry.signature import Signer  # only needed with a key

            key = check_registry_key(self._config.registry_key)
            sign = Signer(key, self._service, self._clock).sign
        self._lease = Lease(
            self._registry,
            self._service,
            endpoint,
            ttl=self._config.lease_ttl,
            clock=self._clock,
            rng=self._rng,
            load=load,
            sign=sign,
        )
        await self._lease.start()

    async def set_state(self, state: State) -> None:
        """Publish a change of state; if the registry is down, it is published later."""
        if self._lease is not None:
            await self._lease.update(self._lease.endpoint.replace(state=state))

    async def deregister(self) -> None:
        """Remove the registration, and close a registry that was made from a URL."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.close()
        if self._url is not None and self._registry is not None:
            await self._registry.aclose()

    async def _advertised(self, bound: Sequence[Address]) -> Address:
        address = self._advertise or bound[0]
        if address.has_port and not address.port:
            address = address.replace(port=bound[0].port)
        registry = getattr(self._registry, "location", None)
        if not isinstance(registry, Address):
            registry = None
        if address.is_wildcard:
            address = address.replace(host=await route_address(address.host, registry))
        is_remote = registry is not None and not registry.is_loopback
        if is_remote and self._advertise is None and address.is_loopback:
            _log.warning(
                "the server advertises %s, which clients on other hosts cannot reach; "
                "pass advertise=",
                address,
            )
        return address


async def route_address(wildcard: str, registry: Address | None) -> str:
    """Return the local address of the route to the registry. No packet is sent.

    If the address of the registry is unknown or of another family, the route to other machines is
    used, and without such a route the loopback address. For ``::``, IPv6 comes first, then IPv4. A
    host name of the registry that resolves to this machine is skipped, because other machines
    resolve it to another address.

    Args:
        wildcard: The address that the server listens on, ``0.0.0.0`` or ``::``.
        registry: Address of the registry; `None` if unknown.
    """
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    loopback = registry is not None and registry.is_loopback
    hosts = [_REMOTE[family]]
    if registry is not None and registry.has_port:
        hosts = [*await _resolved(registry.host, family), *hosts]
    for host in hosts:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((host, _PORT))
                found = str(sock.getsockname()[0])
            except OSError:
                continue
            if loopback or not Address("tcp", found).is_loopback:
                return found
    if family == socket.AF_INET6:  # a server that listens on ``::`` listens on IPv4, too
        return await route_address("0.0.0.0", registry)
    return "127.0.0.1"


async def _resolved(host: str, family: socket.AddressFamily) -> list[str]:
    """Return the addresses of a host in one family; none if it cannot be resolved in time."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            found = await loop.getaddrinfo(host, _PORT, family=family, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # TimeoutError is an OSError
        return []
    return [str(name[0]) for *_, name in found]
