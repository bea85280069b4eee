"""Discovery: servers register, and clients watch.

A client of fixed addresses needs few modules; the others are imported on first use.
`RedisRegistry` is in `rap.registry.redis`, because it needs the extra ``rap[redis]``.
"""

from typing import TYPE_CHECKING

from rap._lazy import Lazy, loader
from rap.registry.base import (
    Change,
    Endpoint,
    Registry,
    Resolver,
    Snapshot,
    State,
    check_name,
    check_weight,
    diff,
)
from rap.registry.static import StaticResolver

if TYPE_CHECKING:
    from rap.registry.base import AddressTaken, LeaseLost, LoadReport, Reports
    from rap.registry.cache import CachedResolver, SnapshotCache
    from rap.registry.dns import DnsResolver
    from rap.registry.file import FileRegistry
    from rap.registry.lease import Lease
    from rap.registry.memory import MemoryRegistry
    from rap.registry.url import registry_from_url

__all__ = [
    "AddressTaken",
    "CachedResolver",
    "Change",
    "DnsResolver",
    "Endpoint",
    "FileRegistry",
    "Lease",
    "LeaseLost",
    "LoadReport",
    "MemoryRegistry",
    "Registry",
    "Reports",
    "Resolver",
    "Snapshot",
    "SnapshotCache",
    "State",
    "StaticResolver",
    "check_name",
    "check_weight",
    "diff",
    "registry_from_url",
]

_LATER = {
    "cache": ["CachedResolver", "SnapshotCache"],
    "dns": ["DnsResolver"],
    "file": ["FileRegistry"],
    "lease": ["Lease"],
    "memory": ["MemoryRegistry"],
    "base": ["AddressTaken", "LeaseLost", "LoadReport", "Reports"],
    "url": ["registry_from_url"],
}
__getattr__ = loader(
    __name__,
    {name: Lazy(f"rap.registry.{file}", name) for file, names in _LATER.items() for name in names},
)
