"""Middleware that admits or refuses connections by their address."""

import logging
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from rap.errors import Code
from rap.server.middleware.base import BaseConnMiddleware
from rap.transport import Connection

__all__ = ["IpBlockMiddleware"]

_log = logging.getLogger("rap.server")

IpAddress = IPv4Address | IPv6Address

_MAPPED = IPv6Network("::ffff:0:0/96")


class _Networks:
    """A set of networks that can contain addresses.

    A lookup takes one step per prefix length in the set, so a /8 costs as little as one address.
    """

    def __init__(self, option: str, entries: Iterable[str]) -> None:
        self._option = option
        self._prefixes: dict[tuple[int, int], set[int]] = {}  # version, length → first addresses
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            raise ValueError(f"{option} must be a list of addresses and networks, got {entries!r}")
        for entry in entries:
            self.add(entry)

    def __bool__(self) -> bool:
        return bool(self._prefixes)

    def __contains__(self, address: IpAddress) -> bool:
        value, bits = int(address), address.max_prefixlen
        return any(
            version == address.version and value >> (bits - length) << (bits - length) in firsts
            for (version, length), firsts in self._prefixes.items()
        )

    def add(self, entry: str) -> None:
        key, first = self._parse(entry)
        self._prefixes.setdefault(key, set()).add(first)

    def remove(self, entry: str) -> None:
        key, first = self._parse(entry)
        firsts = self._prefixes.get(key, set())
        if first not in firsts:
            raise ValueError(f"{self._option} has no entry {entry!r}")
        firsts.discard(first)
        if not firsts:
            del self._prefixes[key]

    def list(self) -> list[str]:
        networks = sorted(
            (version, first, length)
            for (version, length), firsts in self._prefixes.items()
            for first in firsts
        )
        return [_text(*network) for network in networks]

    def _parse(self, entry: str) -> tuple[tuple[int, int], int]:
        try:
            if not isinstance(entry, str):
                raise ValueError("it is not a string")
            network = ip_network(entry)
        except ValueError as exc:
            text = f"{self._option} takes addresses and networks such as 10.0.0.0/8"
            raise ValueError(f"{text}, got {entry!r}: {exc}") from exc
        if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
            mapped = network.network_address.ipv4_mapped  # connections have the IPv4 address
            network = ip_network(f"{mapped}/{network.prefixlen - _MAPPED.prefixlen}")
        return (network.version, network.prefixlen), int(network.network_address)


def _text(version: int, first: int, length: int) -> str:
    address = IPv4Address(first) if version == 4 else IPv6Address(first)
    return str(address) if length == address.max_prefixlen else f"{address}/{length}"


class IpBlockMiddleware(BaseConnMiddleware):
    """Admits or refuses connections by their address, IPv4 or IPv6.

    With an allow list, only the addresses in it are admitted, and the block list is ignored. With
    an empty allow list, all addresses but those in the block list are admitted. Clients on a unix
    socket have no address and are admitted. Changing a list does not close open connections.

    Private functions: `add_allow_ip`, `remove_allow_ip`, `get_allow_ip`, `add_block_ip`,
    `remove_block_ip`, `get_block_ip`.

    Args:
        allow_ip_list: Addresses and networks to admit, such as ``192.168.0.0/16``.
        block_ip_list: Addresses and networks to refuse.

    Raises:
        ValueError: An entry is neither an address nor a network; the message names it.
    """

    def __init__(
        self,
        allow_ip_list: Iterable[str] | None = None,
        *,
        block_ip_list: Iterable[str] | None = None,
    ) -> None:
        self._allowed = _Networks("allow_ip_list", () if allow_ip_list is None else allow_ip_list)
        self._blocked = _Networks("block_ip_list", () if block_ip_list is None else block_ip_list)
        for func in (self.add_allow_ip, self.remove_allow_ip, self.get_allow_ip):
            self.register(func)
        for func in (self.add_block_ip, self.remove_block_ip, self.get_block_ip):
            self.register(func)

    async def dispatch(self, conn: Connection) -> None:
        """Admit the connection if the lists allow its address."""
        host = conn.peer.host
        if not host or self._admits(ip_address(host)):
            await self.call_next(conn)
            return
        _log.info("the address %s may not connect", host)
        text = f"the address {host} may not connect"
        await self.refuse(conn, text, Code.PERMISSION_DENIED)

    def add_allow_ip(self, ip: str) -> None:
        """Add an entry to the allow list; the first entry disables the block list."""
        self._allowed.add(ip)

    def remove_allow_ip(self, ip: str) -> None:
        """Remove an entry from the allow list; without entries the block list applies again."""
        self._allowed.remove(ip)
        if not self._allowed:
            _log.warning("the allow list is empty: all addresses but the block list may connect")

    def get_allow_ip(self) -> list[str]:
        """Return the allow list."""
        return self._allowed.list()

    def add_block_ip(self, ip: str) -> None:
        """Add an entry to the block list."""
        self._blocked.add(ip)

    def remove_block_ip(self, ip: str) -> None:
        """Remove an entry from the block list."""
        self._blocked.remove(ip)

    def get_block_ip(self) -> list[str]:
        """Return the block list."""
        return self._blocked.list()

    def _admits(self, address: IpAddress) -> bool:
        return address in self._allowed if self._allowed else address not in self._blocked
