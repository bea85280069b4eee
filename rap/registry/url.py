"""Registries by URL.

============================================  =====================================================
``memory://`` ``memory://name``               this process, shared by name
``file:///directory``                         this machine, no server needed
``static://h1:p,h2:p;weight=2;zone=a``        a fixed list; parameters belong to the address before
``dns://name:port``                           every address of a name, as of a headless service
``redis://`` ``rediss://`` ``redis+unix://``  one Redis server
``redis+sentinel://`` ``redis+cluster://``    a primary found by Sentinel; a Redis Cluster
============================================  =====================================================

Each of them takes ``?namespace=prod``, which separates environments. Redis and DNS also take
``cache=/directory``, which stores the last snapshots in files. Packages can add schemes with the
entry point group ``rap.registry``: the name is the scheme, the object a callable that takes the
whole URL.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode

from rap.address import Address
from rap.clock import Clock, SystemClock
from rap.redis.url import REDIS_SCHEMES, RedisTarget
from rap.registry.base import Endpoint, Registry, Resolver, check_name, check_weight
from rap.registry.cache import CachedResolver, SnapshotCache
from rap.registry.dns import DnsResolver
from rap.registry.file import FileRegistry
from rap.registry.memory import MemoryRegistry
from rap.registry.static import StaticResolver

__all__ = ["ENTRY_POINT_GROUP", "registry_from_url"]

ENTRY_POINT_GROUP = "rap.registry"


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a URL, after the common options are checked.

    Args:
        scheme: The text before ``://``.
        body: The text between ``://`` and ``?``, with its escapes.
        namespace: The option ``namespace``, which every scheme has.
        cache: The option ``cache``; `None` without it, and for schemes not in `_CACHEABLE`.
        options: All other options by name; empty except for Redis.
        clock: Time source.
        rng: Random numbers for the jitter of polls.
    """

    scheme: str
    body: str
    namespace: str
    cache: SnapshotCache | None
    options: dict[str, str]
    clock: Clock
    rng: random.Random


def registry_from_url(
    url: str, *, clock: Clock | None = None, rng: random.Random | None = None
) -> Registry | Resolver:
    """Return the registry of a URL; for a fixed list and DNS, the resolver.

    It does not connect yet.

    Args:
        url: A URL as in the table above.
        clock: Time source.
        rng: Random numbers for the jitter of polls.

    Raises:
        ValueError: The URL is invalid; the message has the URL without its password, and the
            reason.
        ImportError: The URL needs an extra that is not installed; the message names it.
    """
    if not isinstance(url, str):
        raise ValueError(f"registry must be a URL such as redis://host:6379/0, got {url!r}")
    try:
        return _build(url, clock or SystemClock(), rng or random.Random())
    except ValueError as exc:
        raise ValueError(f"registry {_without_password(url)!r}: {exc}") from exc


def _build(url: str, clock: Clock, rng: random.Random) -> Registry | Resolver:
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError("it has no '://'; a URL has the form scheme://…")
    factory = _FACTORIES.get(scheme)
    if factory is None:
        return _from_entry_point(scheme, url)
    body, _, query = rest.partition("?")
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if name in options:
            raise ValueError(f"option {name!r} is given twice")
        options[name] = value
    namespace = check_name("namespace", options.pop("namespace", "default"))
    cache = None
    if scheme in _CACHEABLE and "cache" in options:
        cache = SnapshotCache(options.pop("cache"), namespace=namespace, clock=clock)
    if options and scheme not in REDIS_SCHEMES:
        known = "namespace, cache" if scheme in _CACHEABLE else "namespace"
        raise ValueError(f"unknown option {next(iter(options))!r}; {scheme}:// has {known}")
    return factory(_Parts(scheme, body, namespace, cache, options, clock, rng))


def _memory(parts: _Parts) -> Registry:
    name = check_name("name", parts.body) if parts.body else ""
    return MemoryRegistry(name, namespace=parts.namespace, clock=parts.clock)


def _file(parts: _Parts) -> Registry:
    path = unquote(parts.body)
    if not path.startswith("/"):
        raise ValueError(f"the directory must be absolute, file:///directory, got {path!r}")
    return FileRegistry(path, namespace=parts.namespace, clock=parts.clock)


def _static(parts: _Parts) -> Resolver:
    endpoints: dict[str, Endpoint] = {}
    for entry in parts.body.split(","):
        endpoint = _static_endpoint(entry)
        if endpoint.id in endpoints:
            raise ValueError(f"address {endpoint.id} is given twice")
        endpoints[endpoint.id] = endpoint
    return StaticResolver(endpoints.values())


def _static_endpoint(entry: str) -> Endpoint:
    text, *parameters = entry.split(";")
    address = Address.parse(text)
    values: dict[str, str] = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name not in ("weight", "zone"):
            raise ValueError(f"unknown parameter {name!r} of {text}; there are weight and zone")
        if name in values:
            raise ValueError(f"parameter {name!r} of {text} is given twice")
        values[name] = value
    weight: object = values.get("weight", "1")
    if isinstance(weight, str) and weight.isascii() and weight.isdigit():
        weight = int(weight)
    return Endpoint(
        id=str(address),
        address=address,
        weight=check_weight(weight, option=f"weight of {text}"),
        zone=values.get("zone", ""),
    )


def _dns(parts: _Parts) -> Resolver:
    address = Address.parse(parts.body, option="name")
    if "://" in parts.body:
        raise ValueError(f"write dns://name:port, got {parts.body!r}")
    resolver = DnsResolver(address.host, address.port, clock=parts.clock, rng=parts.rng)
    return resolver if parts.cache is None else CachedResolver(resolver, parts.cache)


def _redis(parts: _Parts) -> Registry:
    query = f"?{urlencode(parts.options)}" if parts.options else ""
    url = f"{parts.scheme}://{parts.body}{query}"
    RedisTarget.parse(url)  # reports an invalid URL even if the extra is missing
    try:
        from rap.registry.redis import RedisRegistry
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "redis":
            raise
        raise ImportError(
            f"{parts.scheme}:// needs the extra redis: install rap[redis]", name="redis"
        ) from exc
    registry: Registry = RedisRegistry(
        url,
        namespace=parts.namespace,
        cache=parts.cache,
        clock=parts.clock,
        rng=parts.rng,
    )
    return registry


def _from_entry_point(scheme: str, url: str) -> Registry | Resolver:
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    found = list(entry_points(group=ENTRY_POINT_GROUP, name=scheme))
    if not found:
        known = ", ".join(f"{name}://" for name in _FACTORIES)
        from difflib import get_close_matches

        near = get_close_matches(scheme, _FACTORIES, 1)
        hint = f"did you mean {near[0]}://? " if near else ""
        raise ValueError(f"unknown scheme {scheme!r}; {hint}known are {known}")
    registry: Registry | Resolver = found[0].load()(url)
    return registry


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    credentials, at, hosts = rest.rpartition("@")
    if not at:
        return url
    user, colon, _ = credentials.partition(":")
    return f"{scheme}{separator}{user}{':***' if colon else ''}@{hosts}"


_CACHEABLE = ("dns", *REDIS_SCHEMES)
_FACTORIES: dict[str, Callable[[_Parts], Registry | Resolver]] = {
    "memory": _memory,
    "file": _file,
    "static": _static,
    "dns": _dns,
    **dict.fromkeys(REDIS_SCHEMES, _redis),
}
