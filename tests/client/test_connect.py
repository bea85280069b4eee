"""Finding servers: options, clients before servers, servers that come and go."""

import asyncio
import socket
from typing import Any

import pytest

from rap.address import Address
from rap.client import Client
from rap.errors import CallError, RegistryError, Unavailable
from rap.registry import Endpoint
from rap.registry.memory import MemoryRegistry
from rap.wire.hello import hello_frame
from tests.client.fed import Resolver, listed, numbered
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, passing, serving, within
from tests.ports import free_address


async def answers(client: Client) -> set[int]:
    """Return which servers answer calls made at the same time; one by one the fastest gets all."""
    return {*await asyncio.gather(*(client.raw_call("which") for _ in range(100)))}


# Options.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            (option, value)
            for option in ("timeout", "connect_timeout", "ping_sleep_time")
            for value in (0, -1, "1", float("nan"))
        ),
        ("connect_timeout", None),
        *(
            (option, value)
            for option in ("ping_fail_cnt", "max_connections", "max_in_flight", "max_attempts")
            for value in (0, 1.5, "1", True)
        ),
        ("max_waiting", -1),
        ("slow_start", -1),
        *(("retry_budget", value) for value in (-0.1, "0.2", None, True, float("nan"))),
        ("max_message", 0),
        ("max_frame", 0),
        ("stream_window", 0),
        ("connection_window", 0),
        ("picker", "best"),
        ("picker", 3),
        ("registry", "memory://"),
        ("service", "calc"),
        ("ssl_crt_path", "no-such-file"),
        ("ssl_ca_path", "no-such-file"),
        ("ssl_client_crt_path", "no-such-file"),
        ("ssl_client_key_path", "no-such-file"),
    ],
)
def test_a_bad_option_is_refused_by_its_name(option: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=option):
        Client(**{option: value})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"host_list": "a:1", "registry": "memory://", "service": "x"}, "not both"),
        ({"registry": "gopher://x", "service": "x"}, "gopher"),
        ({"registry": 3, "service": "x"}, "registry must be a URL"),
        ({"registry": "memory://", "service": "bad name"}, "service must match"),
        ({"ssl_crt_path": "x", "ssl_ca_path": "y"}, "ssl_crt_path"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Client(**options)


def test_an_unknown_option_is_refused_by_its_name() -> None:
    with pytest.raises(TypeError, match="'tiemout'"):
        Client(tiemout=3)  # type: ignore[call-arg]  # that is the mistake


@pytest.mark.parametrize(
    ("hosts", "complaint"),
    [
        ("nonsense", "host_list must be host:port"),
        (["localhost:1", "http://x:1"], "host_list: unknown scheme 'http'"),
        ("localhost:70000", "host_list: the port must be 0 to 65535"),
        ("localhost:0", "host_list: port 0 cannot be dialled"),
        ("unix://relative", "unix:///path"),
        ([], "host_list must be an address or a list"),
        (9000, "host_list must be an address or a list"),
        ([9000], "host_list must be"),
    ],
)
def test_a_bad_address_is_refused_at_once(hosts: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Client(hosts)


@pytest.mark.parametrize("processor", [3, object])
def test_an_object_that_is_not_a_processor_is_refused(processor: Any) -> None:
    with pytest.raises(TypeError, match="processor_list takes BaseProcessor objects"):
        Client(processor_list=[processor])


# Servers that are not there.


async def test_connect_names_what_it_tried_and_a_later_one_succeeds() -> None:
    address, clock = free_address(), FakeClock()
    client = Client(address, connect_timeout=0.05, clock=clock)
    with pytest.raises(Unavailable, match=rf"{address} \(connecting: cannot reach it: "):
        await client.connect()
    async with numbered(1, host=address):
        await passing(clock, 1.0, lambda: client.cluster.ready)
        await client.connect()
        assert await client.raw_call("which") == 1
        await client.await_close()


async def test_a_failed_async_with_leaves_nothing_running() -> None:
    client = Client(free_address(), connect_timeout=0.02)
    with pytest.raises(Unavailable):
        await client.__aenter__()
    assert "closed" in repr(client)


async def test_a_name_that_no_resolver_takes_is_an_error_of_connect() -> None:
    client = Client("a..b:80", connect_timeout=0.1)
    with pytest.raises(Unavailable, match=r"a\.\.b:80"):
        await client.connect()
    await client.await_close()


async def test_a_call_waits_for_a_server_until_its_deadline() -> None:
    address, clock = free_address(), FakeClock()
    client = Client(address, connect_timeout=0.02, clock=clock)
    with pytest.raises(Unavailable):
        await client.connect()
    with pytest.raises(Unavailable, match=f"no usable server: {address} .*cannot reach") as caught:
        await client.raw_call("which", timeout=0.02)
    assert caught.value.unserved
    call = asyncio.create_task(client.raw_call("which", timeout=9000, wait_for_ready=True))
    async with numbered(1, host=address):
        await passing(clock, 1.0, lambda: client.cluster.ready)
        assert await within(call) == 1
        await client.await_close()


async def test_servers_that_are_down_at_the_start_join_when_they_come_up() -> None:
    late, clock = free_address(), FakeClock()
    async with numbered(1) as server:
        async with Client([*server.addresses, late], clock=clock) as client:
            assert await answers(client) == {1}
            async with numbered(2, host=late):
                await passing(clock, 1.0, lambda: len(client.cluster.ready) == 2)
                assert await answers(client) == {1, 2}


async def test_a_server_that_went_away_comes_back() -> None:
    address, clock = free_address(), FakeClock()
    async with numbered(1, host=address) as server, calling(server, clock=clock) as client:
        assert await client.raw_call("which") == 1
        await server.await_closed()
        await eventually(lambda: not client.cluster.ready)
        async with numbered(2, host=address):
            await passing(clock, 1.0, lambda: client.cluster.ready)
            assert await client.raw_call("which") == 2
            (node,) = client.cluster.nodes.values()
            assert node.stats.in_flight == 0


async def test_connecting_twice_at_a_time_is_one_connection() -> None:
    async with numbered(1) as server:
        client = Client(server.addresses)
        await asyncio.gather(client.connect(), client.connect())
        await client.connect()
        (node,) = client.cluster.nodes.values()
        assert len(node.pool.connections) == 1
        await client.await_close()


async def test_a_server_out_of_rotation_is_asked_again_after_a_pause() -> None:
    clock = FakeClock()
    async with numbered(1) as server, calling(server, clock=clock) as client:
        await server.set_serving(False)
        await eventually(lambda: not client.cluster.ready)
        (node,) = client.cluster.nodes.values()
        await eventually(lambda: "draining" in node.pool.error)
        assert node.pool.connections == set()
        await server.set_serving(True)
        await passing(clock, 1.0, lambda: client.cluster.ready)
        assert await client.raw_call("which") == 1


# Registries.


async def test_a_server_that_hangs_up_at_once_is_not_dialled_without_end() -> None:
    clock, visits = FakeClock(), 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.write(hello_frame({"rap": 1}))
        await reader.read(1)  # its Hello: the connection was open
        writer.close()

    listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = Client(f"127.0.0.1:{port}", clock=clock)
    connecting = asyncio.create_task(client.connect())
    async with listener:
        await eventually(lambda: visits)
        (node,) = client.cluster.nodes.values()
        await eventually(lambda: visits == 2 and not node.pool.connections)
        await settled()
        assert visits == 2
        assert node.pool.dialling
        clock.advance(1.3)
        await eventually(lambda: visits == 3 and not node.pool.connections)
        clock.advance(1.2)
        await settled()
        assert visits == 3
        await client.await_close()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)


async def settled() -> None:
    """Let whatever could be dialled be dialled, and be heard of."""
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as other:
            _, writer = await asyncio.open_connection(*other.getsockname())
            writer.transport.abort()


async def test_servers_are_found_by_name_in_a_registry() -> None:
    registry = MemoryRegistry()
    options: dict[str, Any] = {"registry": registry, "service": "calc"}
    async with numbered(1, **options) as one:
        async with Client(service="calc", registry=registry) as client:
            assert await client.raw_call("which") == 1
            async with numbered(2, **options) as two:
                await eventually(lambda: len(client.cluster.ready) == 2)
                assert await answers(client) == {1, 2}
                await one.await_closed()
                await eventually(lambda: len(client.cluster.nodes) == 1)
                assert await answers(client) == {2}
                await two.set_serving(False)
                await eventually(lambda: not client.cluster.ready)
                await two.set_serving(True)
                await eventually(lambda: client.cluster.ready)
                assert await client.raw_call("which") == 2


async def test_a_client_may_start_before_any_server_is_registered() -> None:
    registry = MemoryRegistry()
    client = Client(service="calc", registry=registry, connect_timeout=0.02)
    with pytest.raises(Unavailable, match="no server of service 'calc': the registry lists none"):
        await client.connect()
    call = asyncio.create_task(client.raw_call("which", wait_for_ready=True))
    async with numbered(1, registry=registry, service="calc"):
        assert await within(call) == 1
        await client.await_close()


async def test_a_server_of_another_service_gets_no_call() -> None:
    registry = MemoryRegistry()
    async with numbered(1, service="other", registry=MemoryRegistry()) as server:
        address = server.addresses[0]
        endpoint = Endpoint(str(address), address, incarnation="x")
        await registry.register("calc", endpoint, ttl=10)
        client = Client(service="calc", registry=registry, connect_timeout=60)
        connecting = asyncio.create_task(client.connect())
        why = f"{address} serves 'other', not 'calc'"
        await eventually(lambda: client._cluster is not None and why in client.cluster.describe())
        await client.await_close()
        with pytest.raises(Unavailable):
            await connecting


async def test_a_watch_that_fails_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    resolver, clock = Resolver(), FakeClock()
    async with numbered(1, registry=MemoryRegistry(), service="calc") as server:
        resolver.given.put_nowait(listed(server))
        async with Client(service="calc", registry=resolver, clock=clock) as client:
            resolver.given.put_nowait(RegistryError("gone"))
            await eventually(lambda: "watching 'calc' failed" in caplog.text)
            assert await client.raw_call("which") == 1
            resolver.given.put_nowait(listed(server))
            await passing(clock, 1.0, lambda: resolver.watches == 2)
            assert await client.raw_call("which") == 1


async def test_a_process_that_took_an_address_over_starts_with_clean_statistics() -> None:
    resolver = Resolver()
    async with numbered(1, registry=MemoryRegistry(), service="calc") as server:
        resolver.given.put_nowait(listed(server, incarnation=server.incarnation))
        async with Client(service="calc", registry=resolver) as client:
            await client.raw_call("which")
            (node,) = client.cluster.nodes.values()
            (old,) = node.pool.connections
            assert node.stats.measured
            resolver.given.put_nowait(listed(server, incarnation="another"))
            await eventually(lambda: old.closed)
            assert not node.stats.measured
            await eventually(lambda: node.pool.connections)
            assert node.incarnation == server.incarnation
            assert await client.raw_call("which") == 1
            assert node.stats.in_flight == 0


async def test_a_working_connection_keeps_a_server_that_the_registry_lost() -> None:
    resolver = Resolver()
    async with (
        numbered(1, registry=MemoryRegistry(), service="calc") as one,
        numbered(2, registry=MemoryRegistry(), service="calc") as two,
    ):
        resolver.given.put_nowait(listed(one, two))
        async with Client(service="calc", registry=resolver) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            resolver.given.put_nowait({})
            await eventually(lambda: all(node.leaving for node in client.cluster.nodes.values()))
            assert await answers(client) == {1, 2}
            await one.await_closed()
            await eventually(lambda: len(client.cluster.nodes) == 1)
            assert await client.raw_call("which") == 2


async def test_servers_without_connection_stay_a_while_when_most_are_lost_at_once() -> None:
    resolver, clock = Resolver(), FakeClock()
    addresses = [Address.parse(free_address()) for _ in range(3)]
    down = {str(address): Endpoint(str(address), address) for address in addresses}
    async with numbered(1, registry=MemoryRegistry(), service="calc") as server:
        resolver.given.put_nowait({**down, **listed(server)})
        async with Client(service="calc", registry=resolver, clock=clock) as client:
            await eventually(lambda: len(client.cluster.nodes) == 4)
            resolver.given.put_nowait(listed(server))
            await eventually(lambda: sum(n.leaving for n in client.cluster.nodes.values()) == 3)
            clock.advance(31.0)
            resolver.given.put_nowait(listed(server, weight=2))
            await eventually(lambda: len(client.cluster.nodes) == 1)


async def test_closing_a_client_does_not_wait_for_calls_on_a_server_that_left() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    resolver = Resolver()
    async with serving(hang, drain_delay=0, registry=MemoryRegistry(), service="calc") as server:
        resolver.given.put_nowait(listed(server, state="draining"))
        resolver.given.put_nowait(listed(server))
        async with Client(service="calc", registry=resolver) as client:
            call = asyncio.create_task(client.raw_call("hang"))
            (node,) = client.cluster.nodes.values()
            await eventually(lambda: node.stats.in_flight)
            await server.set_serving(False)
            await eventually(lambda: not client.cluster.ready)
            resolver.given.put_nowait({})
            await eventually(lambda: not client.cluster.nodes)
            await within(client.await_close())
            with pytest.raises(CallError):
                await call


@pytest.mark.parametrize("bound", ["127.0.0.1:0", "[::1]:0"])
async def test_localhost_is_tried_by_ipv4_and_by_ipv6(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        pytest.skip("uvloop does not resolve names by socket.getaddrinfo")

    def both(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        assert host == "localhost"
        kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        four = (socket.AF_INET, *kind, ("127.0.0.1", port))
        return [(socket.AF_INET6, *kind, ("::1", port, 0, 0)), four]

    async with numbered(1, host=bound) as server:
        monkeypatch.setattr(socket, "getaddrinfo", both)  # as /etc/hosts of most machines says
        async with Client(f"localhost:{server.addresses[0].port}") as client:
            assert await client.raw_call("which") == 1
