"""Discovery: where servers register and clients watch.

`RedisRegistry` is in `rap.registry.redis`, since importing it needs the extra ``rap[redis]``.
"""

from rap.registry.base import (
    Endpoint,
    Registry,
    Resolver,
    Snapshot,
    State,
    check_name,
    check_weight,
)
from rap.registry.cache import CachedResolver, SnapshotCache
from rap.registry.changes import Change, diff
from rap.registry.dns import DnsResolver
from rap.registry.file import FileRegistry
from rap.registry.lease import Lease
from rap.registry.memory import MemoryRegistry, StaticResolver
from rap.registry.refusal import AddressTaken, LeaseLost
from rap.registry.reports import LoadReport, Reports
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
