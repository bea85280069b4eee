"""Metrics of servers and clients: connections, bytes, picks, leases, limits, nonces."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from rap import __version__
from rap.call import Request
from rap.client import Client
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.errors import CallError, RegistryError, ResourceExhausted, Unauthenticated, Unavailable
from rap.observe import StatusCollector, serve_metrics
from rap.registry import MemoryRegistry
from rap.server import Server, context
from rap.server.middleware import ConnLimitMiddleware, IpBlockMiddleware
from rap.server.processor import CryptoProcessor, LimitProcessor, Rule
from rap.shared_state import MemoryNonces, StateUnavailable
from tests.client.test_refusals import Overloaded
from tests.fake_clock import FakeClock
from tests.loopback import LOOPBACK, PATIENCE, calling, eventually, serving
from tests.transport.certificates import Certificates

KEY = "0123456789abcdef"
Read = Callable[..., float | None]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


async def add(a: int, b: int) -> int:
    return a + b


async def echo(data: bytes) -> bytes:
    return data


async def parts(n: int) -> AsyncIterator[bytes]:
    for _ in range(n):
        yield bytes(100)


def reader(registry: CollectorRegistry, side: str, **labels: str) -> Read:
    """Return what reads a metric of one side by its short name and further labels."""

    def read(name: str, **more: str) -> float | None:
        return registry.get_sample_value(f"rap_{side}_{name}", labels | more)

    return read


def of_server(registry: CollectorRegistry, server: Server) -> Read:
    return reader(registry, "server", address=str(server.addresses[0]))


async def test_both_ends_count_the_same_bytes(registry: CollectorRegistry) -> None:
    server = Server(LOOPBACK)
    for function in (echo, parts):
        server.register(function)
    registry.register(StatusCollector([server]))
    async with server:
        client = Client(server.addresses)
        registry.register(StatusCollector(clients=[client]))
        here, there = of_server(registry, server), reader(registry, "client", service="")
        async with client:
            assert await client.call(echo, bytes(300_000)) == bytes(300_000)
            assert len([part async for part in client.iterator_call(parts, 50)]) == 50
            sent, received = there("sent_bytes_total"), there("received_bytes_total")
            await eventually(lambda: here("received_bytes_total") == sent)
            assert here("sent_bytes_total") == received
            assert sent is not None
            assert 300_000 < sent < 302_000
            assert received is not None
            assert 305_000 < received < 310_000


async def test_bytes_are_counted_only_with_a_collector() -> None:
    async with serving(echo) as server, calling(server) as client:
        await client.call(echo, b"")
        (conn,) = server.connection_manager.connections
        assert type(conn).__name__ == "Connection"
    counted = Server(LOOPBACK)
    StatusCollector([counted])
    async with counted, calling(counted):
        (conn,) = counted.connection_manager.connections
        assert type(conn).__name__ == "CountedConnection"


async def test_picks_are_counted_by_server_across_connections(
    registry: CollectorRegistry,
) -> None:
    async with serving(add) as one, serving(add) as two, calling(one, two) as client:
        registry.register(StatusCollector(clients=[client]))
        read = reader(registry, "client", service="")
        keys = [str(server.addresses[0]) for server in (one, two)]

        def picks() -> list[float]:
            return [read("node_calls_total", node=key) or 0 for key in keys]

        await eventually(lambda: read("ready_nodes") == 2)
        for _ in range(20):
            await client.call(add, 1, 2)
        before = picks()
        assert sum(before) == 20
        assert min(before) > 0
        assert all((read("node_latency_seconds", node=key) or 0) > 0 for key in keys)
        for conn in list(client.cluster.nodes[keys[0]].pool.connections):
            conn.abort(Unavailable("a fault"))
        await eventually(lambda: read("connections_opened_total") == 3)
        assert picks() == before


async def test_a_service_with_many_servers_has_no_series_per_server(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(add) as one, serving(add) as two, calling(one, two) as client:
        registry.register(StatusCollector(clients=[client]))
        monkeypatch.setattr("rap.observe.metrics._MAX_NODES", 1)
        names = {family.name for family in registry.collect()}
        assert "rap_client_node_calls" not in names
        assert "rap_client_nodes" in names


async def test_connections_that_cannot_be_opened_are_counted(registry: CollectorRegistry) -> None:
    async with serving(add) as server, calling(server) as client:
        registry.register(StatusCollector(clients=[client]))
        read = reader(registry, "client", service="")
        assert (read("connections_opened_total"), read("connections_failed_total")) == (1, 0)
        await server.await_closed()
        await eventually(lambda: (read("connections_failed_total") or 0) > 0)
        assert read("connections") == 0


async def test_an_ejection_is_counted(registry: CollectorRegistry) -> None:
    async def fail() -> None:
        raise Unavailable("a fault")

    async def work() -> None:
        """Do nothing."""

    async with serving(fail) as one, serving() as two:
        two.register(work, name="fail")
        async with calling(one, two, picker="round_robin") as client:
            registry.register(StatusCollector(clients=[client]))
            read = reader(registry, "client", service="")
            await eventually(lambda: read("ready_nodes") == 2)
            assert (read("ejections_total"), read("outliers_total")) == (0, 0)
            async with asyncio.timeout(PATIENCE):
                while not read("ejections_total"):
                    with contextlib.suppress(Unavailable):
                        await client.call(fail)
            assert (read("ejections_total"), read("outliers_total")) == (1, 1)
            assert read("nodes", state="ejected") == 1


async def test_hedges_and_refused_retries_are_counted(
    registry: CollectorRegistry,
) -> None:
    slow, busy = asyncio.Event(), False

    async def work() -> int:
        if busy and context.request.header.get(":attempt", 1) == 1:
            await slow.wait()
        return 1

    async def fail() -> None:
        raise Unavailable("a fault")

    async with serving(work, fail) as one, serving(work, fail) as two, calling(one, two) as client:
        registry.register(StatusCollector(clients=[client]))
        read = reader(registry, "client", service="")
        await eventually(lambda: read("ready_nodes") == 2)
        hedged = client.register(idempotent=True, hedge=0.001)(work)
        for _ in range(19):
            await hedged()
        assert (read("hedges_total"), read("retries_refused_total")) == (0, 0)
        busy = True
        assert await hedged() == 1
        assert (read("hedges_total"), read("retries_refused_total")) == (1, 0)
        while client.invoker.budget.take():
            pass
        with pytest.raises(Unavailable):
            await client.register(idempotent=True)(fail)()
        assert read("retries_refused_total") == 2


async def test_calls_that_are_not_sent_to_overloaded_servers_are_counted(
    registry: CollectorRegistry,
) -> None:
    async with serving(add, processor_list=[Overloaded(60.0)]) as server, calling(server) as client:
        registry.register(StatusCollector(clients=[client]))
        read = reader(registry, "client", service="")
        assert read("throttled_total") == 0
        for _ in range(400):
            with pytest.raises(ResourceExhausted):
                await client.call(add, 1, 2)
        assert (read("throttled_total") or 0) > 50


async def test_refusals_of_limits_are_counted(registry: CollectorRegistry) -> None:
    def by_name(request: Request) -> str:
        return request.func_name

    rule = Rule(hour=1, gen_token=1, max_token=1)
    limits = {
        "processor_list": [LimitProcessor("memory://", [(by_name, rule)])],
        "middleware_list": [ConnLimitMiddleware(max_conn=1), IpBlockMiddleware()],
    }
    async with serving(add, **limits) as server, calling(server) as client:
        registry.register(StatusCollector([server]))
        read = of_server(registry, server)
        await client.call(add, 1, 2)
        for _ in range(2):
            with pytest.raises(ResourceExhausted):
                await client.call(add, 1, 2)
        refused = Client(server.addresses, connect_timeout=0.5)
        with pytest.raises(Unavailable, match="more than 1 connections"):
            await refused.connect()
        await refused.close()
        assert read("limit_refused_total", limit="LimitProcessor") == 2
        assert (read("limit_refused_total", limit="ConnLimitMiddleware") or 0) >= 1
        assert read("limit_refused_total", limit="IpBlockMiddleware") == 0
        assert read("limit_alone", limit="LimitProcessor") == 0


async def test_closed_new_connections_are_counted_by_their_limit(
    registry: CollectorRegistry,
) -> None:
    async with serving(add, max_handshakes=1) as server:
        registry.register(StatusCollector([server]))
        read = of_server(registry, server)
        assert read("limit_refused_total", limit="max_handshakes") == 0
        address = server.addresses[0]
        opened = [await asyncio.open_connection(address.host, address.port) for _ in range(2)]
        await eventually(lambda: read("limit_refused_total", limit="max_handshakes") == 1)
        assert read("limit_refused_total", limit="max_connects") == 0
        assert read("limit_alone", limit="max_handshakes") is None
        for _, writer in opened:
            writer.transport.abort()


async def test_refused_tokens_are_counted(registry: CollectorRegistry) -> None:
    async with serving(add, verify_token="right".__eq__) as server:
        registry.register(StatusCollector([server]))
        read = of_server(registry, server)
        assert read("tokens_refused_total") == 0
        with pytest.raises(Unauthenticated):
            await Client(server.addresses, token="wrong", connect_timeout=5).connect()
        assert read("tokens_refused_total") == 1


class Away:
    """Counts, buckets and nonces of a store that can be away."""

    away = False

    def __init__(self) -> None:
        self._nonces = MemoryNonces()

    async def take(self, key: str, bucket: object) -> float:
        return 0.0

    async def claim(self, nonce: str | bytes, *, ttl: float) -> bool:
        if self.away:
            raise StateUnavailable("out of reach")
        return await self._nonces.claim(nonce, ttl=ttl)

    async def aclose(self) -> None:
        pass


async def test_a_limit_reports_that_its_store_is_unreachable(registry: CollectorRegistry) -> None:
    store = Away()
    limit = LimitProcessor(store, [(lambda request: "all", Rule(second=1))])
    async with serving(add, processor_list=[limit]) as server:
        registry.register(StatusCollector([server]))
        read = of_server(registry, server)
        assert read("limit_alone", limit="LimitProcessor") == 0
        store.away = True
        assert read("limit_alone", limit="LimitProcessor") == 1


async def test_nonces_are_counted_by_the_result_of_their_check(registry: CollectorRegistry) -> None:
    store, clock = Away(), FakeClock()
    crypto = CryptoProcessor({"k": KEY}, nonce_store=store, clock=clock)
    async with serving(add, processor_list=[crypto]) as server:
        registry.register(StatusCollector([server]))
        read = of_server(registry, server)
        checked = ("new", "replayed", "stale", "unavailable", "alone")

        def found() -> list[float | None]:
            return [read("nonces_checked_total", result=result) for result in checked]

        late = FakeClock()
        async with calling(server, processor_list=[ClientCrypto("k", KEY, clock=late)]) as client:
            await client.call(add, 1, 2)
            assert found() == [1, 0, 0, 0, 0]
            assert read("nonces_remembered") == 1
            store.away = True
            with pytest.raises(Unavailable):
                await client.call(add, 1, 2)
            store.away = False
            late.advance(1000.0)
            with pytest.raises(CallError):
                await client.call(add, 1, 2)
        await crypto.guard.admit(b"twice", clock.time(), 60.0)
        with pytest.raises(Unauthenticated):
            await crypto.guard.admit(b"twice", clock.time(), 60.0)
        assert found() == [2, 1, 1, 1, 0]


async def test_calls_let_in_by_this_process_alone_are_counted(registry: CollectorRegistry) -> None:
    store = Away()
    store.away = True
    crypto = CryptoProcessor({"k": KEY}, nonce_store=store, nonce_fallback="local")
    async with (
        serving(add, processor_list=[crypto]) as server,
        calling(server, processor_list=[ClientCrypto("k", KEY)]) as client,
    ):
        registry.register(StatusCollector([server]))
        read = of_server(registry, server)
        await client.call(add, 1, 2)
        assert read("nonces_checked_total", result="alone") == 1
        assert read("nonces_checked_total", result="new") == 0


class Broken(MemoryRegistry):
    """A registry that can be reached only while it shall."""

    works = True

    async def register(self, *args: object, **kwargs: object) -> None:
        if not self.works:
            raise RegistryError("out of reach")
        await super().register(*args, **kwargs)  # type: ignore[arg-type]  # as they came


async def test_the_remaining_time_and_failures_of_a_lease_are_reported(
    registry: CollectorRegistry,
) -> None:
    found = Broken()
    options = {"service": "shop", "registry": found, "drain_delay": 0, "lease_ttl": 0.4}
    async with serving(add, **options) as server:
        registry.register(StatusCollector([server]))
        read = of_server(registry, server)
        assert 0 < (read("lease_left_seconds") or 0) <= 0.4
        assert read("lease_failures_total") == 0
        found.works = False
        await eventually(lambda: read("lease_left_seconds") == 0)
        assert (read("lease_failures_total") or 0) >= 1
        assert read("registered") == 0


async def test_a_server_without_replay_guard_and_registry_has_no_series_for_them(
    registry: CollectorRegistry,
) -> None:
    async with serving(add) as server:
        registry.register(StatusCollector([server]))
        names = {family.name for family in registry.collect()}
    for absent in ("nonces_checked", "nonces_remembered", "limit_alone", "lease_left_seconds"):
        assert f"rap_server_{absent}" not in names


async def test_the_version_is_reported(registry: CollectorRegistry) -> None:
    async with serve_metrics(registry=registry):
        assert registry.get_sample_value("rap_build_info", {"version": __version__}) == 1


async def test_the_ends_of_certificates_and_revocation_lists_are_shown(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path)
    ca, own = certificates.authority, certificates.server
    mine = certificates.issue("mine", x509.DNSName("mine"), days=(-1, 9))
    options = {
        "ssl_crt_path": own.crt_path,
        "ssl_key_path": own.key_path,
        "ssl_ca_path": ca.crt_path,
        "ssl_crl_path": certificates.revoke(days=5),
    }
    clients = [
        Client(
            ssl_ca_path=ca.crt_path,
            ssl_client_crt_path=it.crt_path,
            ssl_client_key_path=it.key_path,
        )
        for it in (mine, certificates.client)
    ]
    async with serving(add, **options) as server:
        registry.register(StatusCollector([server], clients))
        read = of_server(registry, server)
        assert read("certificate_not_after_seconds") == own.not_after
        left = read("crl_next_update_seconds")
        assert left is not None
        assert 4.9 < (left - time.time()) / 86_400 < 5.1
        client = reader(registry, "client", service="")
        assert client("certificate_not_after_seconds") == mine.not_after  # the first one to expire


async def test_without_certificates_there_is_no_end_of_one(registry: CollectorRegistry) -> None:
    async with serving(add) as server:
        registry.register(StatusCollector([server], [Client()]))
        assert of_server(registry, server)("certificate_not_after_seconds") is None
        assert reader(registry, "client", service="")("certificate_not_after_seconds") is None
