"""URLs of Redis: one server, a primary found by Sentinel, or a Cluster.

::

    redis://[user:password@]host[:port][/db]      rediss:// with TLS
    redis+unix:///path[?db=0]
    redis+sentinel://[user:password@]host[:port],host[:port]/primary[/db]
    redis+cluster://[user:password@]host[:port],host[:port]

``rediss+sentinel`` and ``rediss+cluster`` use TLS too; ``ssl_ca_path``, ``ssl_crt_path`` and
``ssl_key_path`` name the files. User and password are for the Redis servers, not for Sentinel.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

__all__ = ["REDIS_SCHEMES", "RedisTarget"]

REDIS_SCHEMES = (
    "redis",
    "rediss",
    "redis+unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)

_PORTS = {"sentinel": 26379}
_TLS_OPTIONS = {
    "ssl_ca_path": "ssl_ca_certs",
    "ssl_crt_path": "ssl_certfile",
    "ssl_key_path": "ssl_keyfile",
}


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """The Redis that a URL names.

    Args:
        kind: ``single``, ``unix``, ``sentinel`` or ``cluster``.
        hosts: Host and port of the server, of the sentinels or of some nodes of the Cluster.
        db: The number of the database.
        primary: The name of the primary in Sentinel.
        path: The path of the unix socket.
        credentials: ``username`` and ``password``, if given.
        tls: TLS options of redis-py; empty without TLS.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...] = ()
    db: int = 0
    primary: str = ""
    path: str = ""
    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    tls: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisTarget":
        """Return the target of a URL.

        Raises:
            ValueError: The URL is malformed or has unknown options; the message never contains the
                password.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in REDIS_SCHEMES:
            known = ", ".join(REDIS_SCHEMES)
            raise ValueError(f"unknown scheme {scheme!r} of a Redis URL; known are {known}")
        base, _, kind = scheme.partition("+")
        body, _, query = rest.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        tls: dict[str, Any] = {}
        if base == "rediss":
            tls = {"ssl": True, "ssl_check_hostname": True}
            tls |= {_TLS_OPTIONS[it]: options.pop(it) for it in _TLS_OPTIONS if it in options}
        if kind == "unix":
            target = cls("unix", db=_number("db", options.pop("db", "0")), path=unquote(body))
            if not target.path.startswith("/"):
                raise ValueError("the socket must be absolute, redis+unix:///path")
        else:
            target = _parse_hosts(kind or "single", body, tls)
        if options:
            raise ValueError(f"unknown option {next(iter(options))!r}; see docs/discovery.md")
        return target

    def __str__(self) -> str:
        """Return the URL without user, password and files."""
        scheme = "rediss" if self.tls else "redis"
        if self.kind != "single":
            scheme += f"+{self.kind}"
        if self.kind == "unix":
            return f"{scheme}://{quote(self.path)}" + (f"?db={self.db}" if self.db else "")
        hosts = [(f"[{host}]" if ":" in host else host, port) for host, port in self.hosts]
        places = ",".join(f"{host}:{port}" for host, port in hosts)
        parts = (places, self.primary, str(self.db) if self.db else "")
        return f"{scheme}://" + "/".join(part for part in parts if part)


def _parse_hosts(kind: str, body: str, tls: dict[str, Any]) -> RedisTarget:
    userinfo, _, location = body.rpartition("@")
    username, colon, password = userinfo.partition(":")
    credentials = {"username": unquote(username)} if username else {}
    if colon:
        credentials["password"] = unquote(password)
    names, _, path = location.partition("/")
    hosts = tuple(_host_port(name, _PORTS.get(kind, 6379)) for name in names.split(","))
    if kind == "single" and len(hosts) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    parts = path.split("/") if path else []
    primary = ""
    if kind == "sentinel":
        if not parts or not parts[0]:
            raise ValueError("the name of the primary is missing: redis+sentinel://host/name")
        primary = unquote(parts.pop(0))
    if len(parts) > 1 or (parts and kind == "cluster"):
        raise ValueError(f"unexpected path /{path}")
    db = _number("db", parts[0]) if parts and parts[0] else 0
    return RedisTarget(kind, hosts, db, primary, "", credentials, tls)


def _host_port(text: str, default: int) -> tuple[str, int]:
    host, colon, digits = text.rpartition(":")
    if not colon or digits.endswith("]"):
        host, digits = text, str(default)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"write an IPv6 address as [v6]:port, got {text!r}")
    if not host:
        raise ValueError(f"a host is missing in {text!r}")
    port = _number("port", digits)
    if not 1 <= port <= 65535:
        raise ValueError(f"the port must be 1 to 65535, got {digits!r}")
    return host, port


def _number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{option} must be a number, got {text!r}")
    return int(text)
