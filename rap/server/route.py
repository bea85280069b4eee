"""By which of its addresses a host that listens on all of them is known to others."""

import asyncio
import ipaddress
import socket

from rap.address import Address

__all__ = ["route_address"]

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
