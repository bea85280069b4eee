"""Where a client looks for servers: a list of addresses, or a service in a registry."""

from collections.abc import Sequence
from typing import NamedTuple

from rap.address import Address
from rap.clock import Clock
from rap.registry import Endpoint, Registry, Resolver, StaticResolver, check_name
from rap.registry.base import check_registry_key

__all__ = ["DEFAULT_ADDRESS", "Hosts", "Target", "parse_target"]

Hosts = str | Address | Sequence[str | Address] | None

DEFAULT_ADDRESS = "localhost:9000"


class Target(NamedTuple):
    """The service that a client calls.

    Args:
        service: Name of the service; empty for a list of addresses.
        resolver: Where to watch it.
        owned: Whether the client made the resolver, and closes it.
    """

    service: str
    resolver: Resolver
    owned: bool


def parse_target(
    host_list: Hosts,
    service: str | None,
    registry: str | Registry | Resolver | None,
    tls_options: Sequence[str] = (),
    registry_key: str | bytes | None = None,
    clock: Clock | None = None,
) -> Target:
    """Return the target that the options of a client name.

    Args:
        host_list: Addresses of servers.
        service: Name of the service.
        registry: Where to find its servers.
        tls_options: The options of TLS that are set; with any, each address needs TLS.
        registry_key: Secret with which servers sign what they register; `None`: they need not.
        clock: Source of time.

    Raises:
        ValueError: An option is bad, is missing, or excludes another one; the message names it.
    """
    if registry is None:
        if service is not None:
            raise ValueError(f"service={service!r} needs registry: where to find its servers")
        return Target("", StaticResolver(_endpoints(host_list, tls_options)), True)
    if host_list is not None:
        raise ValueError("give host_list or registry, not both")
    if service is None:
        raise ValueError("registry needs service: the name of the service to call")
    check_name("service", service)
    if isinstance(registry, str):
        from rap.registry.url import registry_from_url  # clients of fixed addresses need none

        resolver: Resolver = registry_from_url(registry)
    elif not hasattr(registry, "watch"):
        raise ValueError(f"registry must be a URL or have a method `watch`, got {registry!r}")
    else:
        resolver = registry
    if registry_key is not None:
        from rap.registry.signature import SignedResolver  # only needed with a key

        resolver = SignedResolver(resolver, check_registry_key(registry_key), clock)
    return Target(service, resolver, isinstance(registry, str))


def _endpoints(host_list: Hosts, tls_options: Sequence[str]) -> list[Endpoint]:
    hosts = DEFAULT_ADDRESS if host_list is None else host_list
    addresses = [hosts] if isinstance(hosts, str | Address) else hosts
    if not isinstance(addresses, Sequence) or isinstance(addresses, bytes) or not addresses:
        raise ValueError(f"host_list must be an address or a list of addresses, got {host_list!r}")
    parsed = [Address.parse(each, option="host_list") for each in addresses]
    for address in parsed:
        if address.has_port and address.port == 0:
            raise ValueError(f"host_list: port 0 cannot be dialled, got {str(address)!r}")
        if tls_options and address.scheme == "unix":
            named = ", ".join(tls_options)
            raise ValueError(f"host_list: {address} has no TLS, which {named} demands")
    return [Endpoint(str(each), each) for each in parsed]
