"""The address of a server, and the peer of a connection.

An address is written ``host:port``, ``[v6]:port``, ``tcp://host:port``, ``tls://host:port`` or
``unix:///path``.
"""

import functools
from collections.abc import Sequence
from typing import Any

from rap.foreign import one_line
from rap.record import Record, field

__all__ = ["Address", "Certificate", "Peer", "brief"]

_MAX = 1024  # characters of an address
_FORMS = "host:port, [v6]:port, tcp://host:port, tls://host:port or unix:///path"


class Address(Record, frozen=True):
    """The address of a server.

    Args:
        scheme: ``tcp``, ``tls`` or ``unix``; or ``inproc`` for a name inside the process, as tests
            use it.
        host: Host name or IP address; empty for ``unix`` and ``inproc``.
        port: 0 to 65535; 0 binds a free port. 0 for ``unix``. For ``inproc``, a number that tells
            apart what has one name; it is not part of the text.
        path: File path of a unix socket, or the name inside the process; empty otherwise.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: "str | Address", *, option: str = "address") -> "Address":
        """Return the address in `text`.

        Raises:
            ValueError: It has none of the known forms; the message names `option` and the text.
        """
        if isinstance(text, Address):
            return text
        if not isinstance(text, str) or not 0 < len(text) <= _MAX or not text.isprintable():
            raise ValueError(f"{option} must be {_FORMS}, got {one_line(repr(text))}")
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "tcp", text
        if scheme == "unix":
            if not rest.startswith("/"):
                raise ValueError(f"{option}: a unix address is unix:///path, got {text!r}")
            return cls("unix", path=rest)
        if scheme == "inproc":
            if not rest:
                raise ValueError(f"{option}: an address inside the process is inproc://name")
            return cls("inproc", path=rest)
        if scheme not in ("tcp", "tls"):
            raise ValueError(f"{option}: unknown scheme {scheme!r} in {text!r}; use {_FORMS}")
        host, port = _split_host_port(rest, text, option)
        return cls(scheme, host, port)

    @property
    def has_port(self) -> bool:
        """Whether it is a host and a port: neither a unix socket nor inside the process."""
        return self.scheme in ("tcp", "tls")

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every local interface; other machines cannot dial it."""
        return self.has_port and self.host in ("0.0.0.0", "::", "")

    @property
    def is_loopback(self) -> bool:
        """Whether only processes on this machine can reach it."""
        if not self.has_port or self.host == "localhost":
            return True
        from ipaddress import ip_address  # few programs need this

        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if not self.has_port:
            return f"{self.scheme}://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        prefix = "tls://" if self.scheme == "tls" else ""
        return f"{prefix}{host}:{self.port}"


def _split_host_port(rest: str, text: str, option: str) -> tuple[str, int]:
    host, separator, digits = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        from ipaddress import IPv6Address

        host = host[1:-1]
        try:
            IPv6Address(host)
        except ValueError as exc:
            raise ValueError(f"{option}: no IPv6 address in {text!r}: {exc}") from exc
    elif ":" in host:
        raise ValueError(f"{option}: write an IPv6 address as [v6]:port, got {text!r}")
    if not separator or not host or any(c in host for c in " /@?#"):
        raise ValueError(f"{option} must be {_FORMS}, got {text!r}")
    if not (digits.isascii() and digits.isdigit()) or int(digits) > 65535:
        raise ValueError(f"{option}: the port must be 0 to 65535, got {digits!r} in {text!r}")
    return host, int(digits)


class Certificate(dict[str, Any]):
    """A verified certificate, with the content that `ssl.SSLSocket.getpeercert` returns.

    Only TLS makes one. A dict that a verifier of tokens returns is none, whatever its keys are.
    """

    __slots__ = ()


class Peer(Record, frozen=True):
    """The other end of a connection; equal to another one of the same place and identity.

    Args:
        host: IP address as text; empty on a unix socket.
        port: Its port; 0 on a unix socket.
        is_local: Whether it counts as being on this machine: on a loopback address or a unix
            socket, unless the option `local` of the server says otherwise.
        identity: What the application has found out by a token; or the `Certificate` of a peer
            that TLS has verified; or `None`.
        binding: The random numbers in both Hellos. They are equal on both sides and differ for each
            connection. Empty before the Hello, or if a Hello has none.
        state: A place for middleware and processors to keep values of the connection.
        abilities: The abilities in both Hellos (PROTOCOL.md §3.1); empty before the Hello.
        address: On a client, the address that it has dialled, if that is a unix socket or a name
            inside the process; otherwise empty. It is the text of this peer.
    """

    host: str = ""
    port: int = 0
    is_local: bool = False
    identity: Any = None
    binding: bytes = b""
    state: dict[str, Any] = field(default_factory=dict)
    abilities: frozenset[str] = frozenset()
    address: str = ""

    @property
    def network(self) -> str:
        """The network that limits count as one client: the IPv4 address, or the /64 of IPv6."""
        return _network_of(self.host) if ":" in self.host else self.host

    @classmethod
    def from_sockname(cls, name: object, identity: Any = None) -> "Peer":
        """Return the peer for a result of `socket.getpeername`."""
        if isinstance(name, tuple) and len(name) >= 2:
            host, is_loopback = _plain_host(str(name[0]))
            return cls(host, int(name[1]), is_loopback, identity)
        return cls("", 0, True, identity)

    def narrowed(self, local: str | None) -> "Peer":
        """Return the peer as a server sees it that trusts fewer peers to be on this machine.

        Args:
            local: ``"loopback"`` for all that are, ``"unix"`` for those on a unix socket, `None`
                for none.
        """
        counts = local == "loopback" or (local == "unix" and not self.host)
        return self if counts or not self.is_local else self.replace(is_local=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Peer) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        host, port, is_local, identity, address = self._key
        more = f", {address=}" if address else ""
        return f"Peer({host=}, {port=}, {is_local=}, {identity=}{more})"

    @property
    def _key(self) -> tuple[str, int, bool, Any, str]:
        return self.host, self.port, self.is_local, self.identity, self.address

    def __str__(self) -> str:
        if self.address or not self.host:
            return self.address or "unix"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@functools.lru_cache(maxsize=1024)
def _network_of(host: str) -> str:
    """Return the /64 of an IPv6 address."""
    from ipaddress import ip_network

    return str(ip_network((host, 64), strict=False))


@functools.lru_cache(maxsize=1024)
def _plain_host(text: str) -> tuple[str, bool]:
    """Return an IP address without its zone, IPv4 if it is mapped, and whether it is loopback."""
    if ":" not in text:  # IPv4, which has one form
        return text, text.startswith("127.")
    from ipaddress import ip_address  # it takes a millisecond

    ip = ip_address(text.split("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    return str(ip), ip.is_loopback


def brief(hosts: str | Address | Sequence[str | Address]) -> str:
    """Return one or more addresses for a message; of many, the first three."""
    listed = [hosts] if isinstance(hosts, str | Address) else hosts
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(map(str, listed[:3])) + more
