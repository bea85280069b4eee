"""The metrics server of a process: metrics, and whether the process is alive and ready."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from rap.client import Client
from rap.client.stats import NODE_STATES
from rap.errors import RegistryError, Unavailable
from rap.observe import serve_metrics
from rap.observe.metrics_server import readiness
from rap.registry import MemoryRegistry
from rap.server import Server
from rap.server.processor import PrometheusProcessor
from rap.server.stats import server_status
from tests.loopback import LOOPBACK, calling, eventually, serving, within
from tests.observe.http import get, send


class Failing(Collector):
    """A collector with a bug."""

    def collect(self) -> Iterable[Metric]:
        yield Metric("rap_bug", f"{1 // len(self.__dict__)}", "gauge")

    def describe(self) -> Iterable[Metric]:
        return ()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


async def add(a: int, b: int) -> int:
    return a + b


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
    await asyncio.Event().wait()


class Broken(MemoryRegistry):
    """A registry that a test makes unreachable."""

    degraded = False
    age = 0.0

    async def register(self, *args: object, **kwargs: object) -> None:
        if self.degraded:
            raise RegistryError("out of reach")
        await super().register(*args, **kwargs)  # type: ignore[arg-type]  # as they came


async def test_metrics_of_processors_are_served(registry: CollectorRegistry) -> None:
    async with (
        serving(add, processor_list=[PrometheusProcessor(registry)]) as server,
        serve_metrics(server, registry=registry) as page,
        calling(server) as client,
    ):
        await client.call(add, 1, 2)
        status, body = await get(page.address, "/metrics")
    assert status == 200
    assert 'rap_server_started_total{method="/default/add",shape="unary"} 1.0' in body
    names = {family.name for family in text_string_to_metric_families(body)}
    assert {"rap_server_connections", "rap_server_serving", "rap_loop_lag_seconds"} <= names


async def test_openmetrics_is_served_to_a_client_that_accepts_it(
    registry: CollectorRegistry,
) -> None:
    async with serve_metrics(registry=registry) as page:
        _, plain = await get(page.address, "/metrics")
        _, other = await get(
            page.address, "/metrics", "application/openmetrics-text; version=1.0.0"
        )
    assert "# EOF" not in plain
    assert other.endswith("# EOF\n")


async def test_connections_and_open_calls_are_counted_on_both_ends(
    registry: CollectorRegistry,
) -> None:
    async with (
        serving(count) as server,
        calling(server) as client,
        serve_metrics(server, client, registry=registry),
    ):
        items = client.iterator_call(count, 1)
        assert await anext(items) == 0
        at, of = {"address": str(server.addresses[0])}, {"service": ""}
        assert registry.get_sample_value("rap_server_connections", at) == 1
        assert registry.get_sample_value("rap_server_calls", at) == 1
        assert registry.get_sample_value("rap_client_connections", of) == 1
        assert registry.get_sample_value("rap_client_calls", of) == 1
        await items.aclose()
        await eventually(lambda: registry.get_sample_value("rap_server_calls", at) == 0)


async def test_nodes_are_counted_by_state(registry: CollectorRegistry) -> None:
    def nodes(state: str) -> float | None:
        labels = {"service": "", "state": state}
        return registry.get_sample_value("rap_client_nodes", labels)

    async with (
        serving(add) as one,
        serving(add) as two,
        calling(one, two) as client,
        serve_metrics(client=client, registry=registry),
    ):
        await eventually(lambda: nodes("up") == 2)
        await two.set_serving(False)
        await eventually(lambda: nodes("up") == 1)
        assert sum(nodes(state) or 0 for state in NODE_STATES) == 2
        assert registry.get_sample_value("rap_client_ready_nodes", {"service": ""}) == 1


async def test_the_state_of_registry_and_lease_is_reported(registry: CollectorRegistry) -> None:
    found = Broken()
    options = {"service": "shop", "registry": found, "drain_delay": 0, "lease_ttl": 0.3}
    async with (
        serving(add, **options) as server,
        Client(service="shop", registry=found) as client,
        serve_metrics(server, client, registry=registry),
    ):
        at, of = {"address": str(server.addresses[0])}, {"service": "shop"}
        assert registry.get_sample_value("rap_server_registered", at) == 1
        assert registry.get_sample_value("rap_client_registry_degraded", of) == 0
        found.degraded, found.age = True, 7.0
        await eventually(lambda: registry.get_sample_value("rap_server_registered", at) == 0)
        assert registry.get_sample_value("rap_client_registry_degraded", of) == 1
        assert registry.get_sample_value("rap_client_registry_age_seconds", of) == 7.0
        degraded = f"{server.addresses[0]}: serving, degraded: not registered"
        assert readiness([server], []) == (True, (degraded,))
        degraded = "shop: 1 ready, degraded: the registry does not answer"
        assert readiness([], [client]) == (True, (degraded,))


async def test_a_server_is_not_ready_until_it_is_registered_for_the_first_time(
    registry: CollectorRegistry,
) -> None:
    found = Broken()
    found.degraded = True
    options = {"service": "shop", "registry": found, "drain_delay": 0, "lease_ttl": 0.3}
    async with (
        serving(add, **options) as server,
        serve_metrics(server, registry=registry) as page,
        Client(server.addresses) as direct,
    ):
        address = server.addresses[0]
        unready = f"{address}: not registered yet: out of reach\n"
        assert await get(page.address, "/readyz") == (503, unready)
        assert (await get(page.address, "/healthz"))[0] == 200
        assert await direct.raw_call("add", 1, 2) == 3  # who has the address calls it
        found.degraded = False
        await eventually(lambda: server_status(server).unregistered is None)
        assert await get(page.address, "/readyz") == (200, f"{address}: serving\n")
        found.degraded = True
        await eventually(lambda: server_status(server).registered is False)
        degraded = f"{address}: serving, degraded: not registered\n"
        assert await get(page.address, "/readyz") == (200, degraded)
        await server.set_serving(False)
        assert (await get(page.address, "/readyz"))[0] == 503


async def test_a_server_that_starts_again_is_not_ready_until_it_is_registered_again(
    registry: CollectorRegistry,
) -> None:
    found = Broken()
    server = Server(LOOPBACK, service="shop", registry=found, drain_delay=0, lease_ttl=0.3)
    server.register(add)
    async with serve_metrics(server, registry=registry) as page:
        async with server:
            assert (await get(page.address, "/readyz"))[0] == 200
        assert (await get(page.address, "/readyz"))[0] == 503
        found.degraded = True
        async with server:
            assert (await get(page.address, "/readyz"))[0] == 503
            found.degraded = False
            await eventually(lambda: readiness([server], []).ready)


async def test_a_draining_server_is_alive_but_not_ready(registry: CollectorRegistry) -> None:
    server = Server(LOOPBACK, close_timeout=5)
    server.register(count)
    async with serve_metrics(server, registry=registry) as page:
        assert (await get(page.address, "/readyz"))[0] == 503
        await server.create_server()
        assert await get(page.address, "/readyz") == (200, f"{server.addresses[0]}: serving\n")
        await server.set_serving(False)
        assert (await get(page.address, "/readyz"))[0] == 503
        await server.set_serving(True)
        assert (await get(page.address, "/readyz"))[0] == 200
        async with calling(server) as client:
            items = client.iterator_call(count, 1)
            await anext(items)
            closing = asyncio.create_task(server.await_closed())
            await eventually(lambda: not server.is_serving)
            assert (await get(page.address, "/readyz"))[0] == 503
            assert (await get(page.address, "/healthz"))[0] == 200
            await items.aclose()
        await within(closing)
        assert (await get(page.address, "/readyz"))[0] == 503


async def test_a_client_alone_is_ready_when_it_has_a_server(registry: CollectorRegistry) -> None:
    async with serving(add) as server:
        client = Client(server.addresses)
        async with serve_metrics(client=client, registry=registry) as page:
            assert (await get(page.address, "/readyz"))[0] == 503
            async with client:
                assert await get(page.address, "/readyz") == (200, "servers: 1 ready\n")
            assert (await get(page.address, "/readyz"))[0] == 503


async def test_a_server_is_ready_without_the_servers_it_calls(
    registry: CollectorRegistry,
) -> None:
    async with serving(add) as server:
        client = Client("127.0.0.1:1", connect_timeout=0.05)
        with pytest.raises(Unavailable):
            await client.connect()
        async with serve_metrics(server, client, registry=registry) as page:
            assert (await get(page.address, "/readyz"))[0] == 200
        await client.await_close()


async def test_the_lag_of_the_event_loop_is_measured(registry: CollectorRegistry) -> None:
    async with serve_metrics(registry=registry):
        name = "rap_loop_lag_seconds_count"
        await eventually(lambda: registry.get_sample_value(name))
        assert registry.get_sample_value("rap_loop_lag_seconds_bucket", {"le": "+Inf"})


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /nothing HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("hello\r\n\r\n", "400 Bad Request"),
        ("GET /metrics SSH/2\r\n\r\n", "400 Bad Request"),
        ("GET /metrics HTTP/1.1\r\nX: " + "x" * 20000 + "\r\n\r\n", "400 Bad Request"),
        ("GET /healthz?verbose HTTP/1.0\r\n\r\n", "200 OK"),
    ],
)
async def test_invalid_requests_get_an_error_status(
    registry: CollectorRegistry, request_text: str, status: str
) -> None:
    async with serve_metrics(registry=registry) as page:
        answer = await within(send(page.address, request_text.encode()))
    assert answer.startswith(f"HTTP/1.1 {status}\r\n")


async def test_an_odd_header_accept_is_answered_and_not_logged(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_metrics(registry=registry) as page:
        for version in ("x", "", "1.x", "1;q=nan"):
            accept = f"application/openmetrics-text;version={version}"
            status, text = await get(page.address, "/metrics", accept)
            assert status == 200
            assert "rap_build_info" in text
    assert "Traceback" not in caplog.text


async def test_head_has_no_body(registry: CollectorRegistry) -> None:
    async with serve_metrics(registry=registry) as page:
        answer = await within(send(page.address, b"HEAD /healthz HTTP/1.1\r\n\r\n"))
    assert "Content-Length: 6" in answer
    assert answer.endswith("\r\n\r\n")


async def test_a_failing_collector_only_fails_its_request(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_metrics(registry=registry) as page:
        registry.register(Failing())
        assert (await get(page.address, "/metrics"))[0] == 500
        assert (await get(page.address, "/healthz"))[0] == 200
    assert "ZeroDivisionError" in caplog.text


async def test_a_silent_connection_does_not_delay_others(registry: CollectorRegistry) -> None:
    async with serve_metrics(registry=registry) as page:
        address = page.address
        _, writer = await asyncio.open_connection(address.host, address.port)
        assert (await get(address, "/healthz"))[0] == 200
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_a_metrics_server_can_be_started_again_with_the_same_registry(
    registry: CollectorRegistry,
) -> None:
    for _ in range(2):
        async with serve_metrics(registry=registry) as page:
            assert (await get(page.address, "/metrics"))[0] == 200
    await page.close()
    with pytest.raises(RuntimeError, match="not being served"):
        _ = page.address


async def test_two_metrics_servers_cannot_share_a_registry(
    registry: CollectorRegistry,
) -> None:
    async with serve_metrics(registry=registry):
        with pytest.raises(ValueError, match="rap_loop_lag_seconds"):
            await serve_metrics(registry=registry).start()


async def test_a_port_in_use_leaves_no_metrics_registered(registry: CollectorRegistry) -> None:
    async with serving(add) as server:
        page = serve_metrics(port=server.addresses[0].port, registry=registry)
        with pytest.raises(OSError, match=r"cannot serve metrics on .*: Address already in use"):
            await page.start()
    assert list(registry.collect()) == []


@pytest.mark.parametrize("port", [-1, 65536, "80", True])
def test_an_invalid_port_is_refused(port: object) -> None:
    with pytest.raises(ValueError, match="port must be an integer from 0 to 65535"):
        serve_metrics(port=port)  # type: ignore[arg-type]  # as it may come


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let the process open no further file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_the_page_answers_when_no_descriptor_is_left(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    async with serve_metrics(port=0, registry=registry) as page:
        socks = [socket.socket() for _ in range(4)]
        with no_descriptor_left():
            for sock in socks:
                sock.setblocking(False)
                await within(loop.sock_connect(sock, ("127.0.0.1", page.address.port)))
                await loop.sock_sendall(sock, b"GET /healthz HTTP/1.1\r\n\r\n")
            for sock in socks:
                assert (await within(loop.sock_recv(sock, 4096))).startswith(b"HTTP/1.1 200 OK")
                sock.close()
        assert len([each for each in caplog.messages if "cannot accept" in each]) <= 1


async def test_a_request_that_does_not_come_makes_room_for_one_that_does(
    registry: CollectorRegistry,
) -> None:
    async with serve_metrics(port=0, registry=registry) as page:
        address = ("127.0.0.1", page.address.port)
        slow = [socket.create_connection(address) for _ in range(40)]
        assert (await within(get(page.address, "/healthz")))[0] == 200
        for sock in slow:
            sock.close()
