import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType

import pytest

from rap.client import Client
from rap.registry import (
    CachedResolver,
    DnsResolver,
    FileRegistry,
    MemoryRegistry,
    StaticResolver,
    registry_from_url,
)
from tests.loopback import serving
from tests.registry.sample import make_endpoint, watching


async def test_a_fixed_list_has_parameters_after_each_address() -> None:
    resolver = registry_from_url("static://a:1,b:2;weight=2;zone=x,tls://[::1]:3;zone=y")
    assert isinstance(resolver, StaticResolver)
    async with watching(resolver) as snapshots:
        found = list((await anext(snapshots)).values())
    assert [it.id for it in found] == ["a:1", "b:2", "tls://[::1]:3"]
    assert [it.weight for it in found] == [1, 2, 1]
    assert [it.zone for it in found] == ["", "x", "y"]


async def test_memory_is_shared_by_name_and_namespace() -> None:
    one = registry_from_url("memory://url-test?namespace=prod")
    assert isinstance(one, MemoryRegistry)
    await one.register("calc", make_endpoint(), ttl=10)
    seen = {}
    for url in ("url-test?namespace=prod", "url-test", "other?namespace=prod"):
        other = registry_from_url(f"memory://{url}")
        async with watching(other) as snapshots:
            seen[url] = len(await anext(snapshots))
    assert seen == {"url-test?namespace=prod": 1, "url-test": 0, "other?namespace=prod": 0}


async def test_a_directory_may_have_escapes(tmp_path: Path) -> None:
    registry = registry_from_url(f"file://{tmp_path}/with%20space?namespace=prod")
    assert isinstance(registry, FileRegistry)
    await registry.register("calc", make_endpoint(), ttl=10)
    assert (tmp_path / "with space" / "prod" / "calc").is_dir()


def test_dns_takes_a_name_and_a_port_and_may_be_cached(tmp_path: Path) -> None:
    assert isinstance(registry_from_url("dns://calc.prod:9000"), DnsResolver)
    assert isinstance(registry_from_url(f"dns://calc:9000?cache={tmp_path}"), CachedResolver)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "scheme://"),
        ("localhost:6379", "scheme://"),
        ("gopher://x", "unknown scheme 'gopher'"),
        ("memory://?namspace=x", "unknown option 'namspace'"),
        ("memory://?namespace=a/b", "namespace must match"),
        ("memory://?namespace=", "namespace must match"),
        ("memory://?namespace=a&namespace=b", "given twice"),
        ("memory://?namespace", "bad query"),
        ("memory://a/b", "name must match"),
        ("memory://?cache=/x", "unknown option 'cache'"),
        ("file://relative", "must be absolute"),
        ("file:///x?ttl=3", "unknown option 'ttl'"),
        ("static://", "address must be"),
        ("static://a", "address must be"),
        ("static://a:99999", "port must be 0 to 65535"),
        ("static://a:1;weight=0", "weight of a:1 must be an integer from 1 to 1000"),
        ("static://a:1;weight=x", "weight of a:1"),
        ("static://a:1;wait=1", "unknown parameter 'wait'"),
        ("static://a:1;weight=1;weight=2", "given twice"),
        ("static://a:1,a:1", "a:1 is given twice"),
        ("redis://localhost:6379/0?ttl=3", "unknown option 'ttl'"),
        ("redis://localhost:x", "port must be a number"),
        ("redis+sentinel://a,b", "name of the primary is missing"),
        ("dns://name", "name must be"),
        ("dns://name:0", "port must be 1 to 65535"),
        ("dns://tls://name:1", "write dns://name:port"),
        ("dns://name:1?cache=relative", "cache must be an absolute path"),
    ],
)
def test_a_bad_url_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        registry_from_url(url)
    assert repr(url) in str(caught.value)


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="registry must be a URL"):
        registry_from_url(None)  # type: ignore[arg-type]  # what the test is about


def test_a_password_is_not_repeated_in_an_error() -> None:
    with pytest.raises(ValueError, match=r"gopher://me:\*\*\*@host") as caught:
        registry_from_url("gopher://me:secret@host")
    assert "secret" not in str(caught.value)


def test_other_packages_add_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("rap_test_plugin")
    module.connect = lambda url: [url]  # type: ignore[attr-defined]  # a module made on the fly
    monkeypatch.setitem(sys.modules, "rap_test_plugin", module)
    found = EntryPoint("etcd", "rap_test_plugin:connect", "rap.registry")
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda **query: EntryPoints([found]).select(**query)
    )
    assert str(registry_from_url("etcd://host:1?x=2")) == "['etcd://host:1?x=2']"


async def test_an_installed_package_adds_a_scheme_for_servers_and_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rap_etcd.py").write_text(
        "from rap.registry.memory import MemoryRegistry\n"
        "def connect(url):\n"
        "    return MemoryRegistry(url.partition('://')[2])\n"
    )
    info = tmp_path / "rap_etcd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rap-etcd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rap.registry]\netcd = rap_etcd:connect\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def which() -> int:
        return 7

    options = {"service": "calc", "registry": "etcd://main", "drain_delay": 0}
    async with serving(which, **options), Client(service="calc", registry="etcd://main") as client:
        assert await client.raw_call("which") == 7


def test_without_the_extra_a_redis_url_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rap.redis.client", "rap.registry.redis"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("redis", "redis.asyncio"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"rap\[redis\]"):
        registry_from_url("redis://localhost:6379/0")
