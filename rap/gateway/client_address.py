"""The address of an HTTP client, which a trusted proxy may name."""

from collections.abc import Collection
from ipaddress import ip_address, ip_network

from starlette.requests import HTTPConnection
from starlette.types import Scope

from rap.address import Peer
from rap.gateway.guard import checked_names

__all__ = ["ClientAddresses", "check_proxies"]

_FORWARDED_FOR = "x-forwarded-for"
_UNIX = "unix"
_MAX_HOPS = 32


class ClientAddresses:
    """Finds the address of the client of a request.

    Args:
        trusted: Addresses and networks of proxies, and ``unix``; see `check_proxies`.
    """

    def __init__(self, trusted: Collection[str]) -> None:
        self._trusts_unix = _UNIX in trusted
        self._networks = [ip_network(each) for each in trusted if each != _UNIX]

    def resolve(self, scope: Scope) -> Scope:
        """Return a scope whose ``client`` is the client, and not a trusted proxy."""
        client = scope.get("client")
        host = _canonical(client[0]) if client else ""
        if not self._trusts(host):
            return {**scope, "client": (host, client[1])} if client else scope
        lines = HTTPConnection(scope).headers.getlist(_FORWARDED_FOR)
        # Each proxy appends the address that it sees. What is left of the first one that is not
        # trusted was sent by the client, who may write there whatever it likes.
        for hop in reversed(",".join(lines).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]):
            named = _address_of(hop.strip())
            if named is None:
                break
            host = named
            if not self._trusts(host):
                break
        return {**scope, "client": (host, 0)}

    def _trusts(self, host: str) -> bool:
        if not host:
            return self._trusts_unix
        if not self._networks:
            return False
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _canonical(host: str) -> str:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return Peer.from_sockname((host, 0)).host


def _address_of(hop: str) -> str | None:
    """Return the address in an entry, which may have a port; `None` if there is none."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        ip_address(hop)
    except ValueError:
        return None
    return _canonical(hop)


def check_proxies(proxies: object, *, option: str) -> None:
    """Check the value of the option `trusted_proxies`.

    Raises:
        ValueError: An entry is not an address, a network or ``unix``.
    """
    for each in checked_names(proxies, option):
        try:
            if each != _UNIX:
                ip_network(each)
        except ValueError as exc:
            raise ValueError(
                f"{option}: an entry is an address, a network or 'unix', got {each!r}"
            ) from exc
