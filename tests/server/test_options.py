"""Options of a server: addresses, and invalid values whose error names the option."""

from typing import Any

import pytest

from rap.client import Client
from rap.server import Server
from tests.loopback import serving


async def fine() -> int:
    return 1


# Addresses.


async def test_port_0_binds_a_free_port_that_addresses_returns() -> None:
    async with serving(fine, host=["127.0.0.1:0", "127.0.0.1:0"]) as server:
        one, two = server.addresses
        assert one.port != two.port
        for address in (one, two):
            async with Client(f"tcp://{address}") as client:
                assert await client.raw_call("fine") == 1


async def test_localhost_is_dialled_by_name() -> None:
    async with serving(fine, host="localhost:0") as server:
        async with Client(f"localhost:{server.addresses[0].port}") as client:
            assert await client.raw_call("fine") == 1


async def test_a_unix_socket_is_an_address(tmp_path: Any) -> None:
    path = tmp_path / "rap.sock"
    async with serving(fine, host=f"unix://{path}"):
        async with Client(f"unix://{path}") as client:
            assert await client.raw_call("fine") == 1
    assert not path.exists()


async def test_an_address_in_use_is_named_and_nothing_is_left_listening() -> None:
    async with serving(fine) as server:
        taken = server.addresses[0]
        other = Server(["127.0.0.1:0", taken])
        with pytest.raises(OSError, match=f"cannot listen on {taken}"):
            await other.create_server()
        await other.await_closed()


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("nonsense", "host must be host:port"),
        ("http://x:1", "host: unknown scheme 'http'"),
        ("localhost:70000", "host: the port must be 0 to 65535"),
        ("::1:80", r"write an IPv6 address as \[v6\]:port"),
        ("unix://relative", "unix:///path"),
        ([], "host must be an address or a list"),
        ([""], "host must be"),
        (9000, "host must be"),
        (None, "host must be"),
    ],
)
def test_a_bad_address_is_refused_at_once(host: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Server(host)


# Options.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            (option, value)
            for option in ("timeout", "keep_alive", "run_timeout", "ping_sleep_time")
            for value in (0, -1, "1", float("nan"))
        ),
        ("timeout", None),
        ("close_timeout", 0),
        ("close_timeout", None),
        ("ping_fail_cnt", 0),
        ("ping_fail_cnt", 1.5),
        ("backlog", 0),
        ("threads", 0),
        ("drain_delay", -1),
        ("max_connection_age", 0),
        ("max_message", 0),
        ("max_frame", 1),
        ("max_streams", 0),
        ("stream_window", 1),
        ("connection_window", 1),
        ("ssl_crt_path", "no-such-file"),
        ("ssl_key_path", "no-such-file"),
        ("ssl_ca_path", "no-such-file"),
        ("weight", 0),
        ("weight", 1001),
        ("registry", "memory://"),
        ("registry", "gopher://x"),
        ("service", "bad name"),
        ("advertise", "nonsense"),
    ],
)
def test_a_bad_option_is_refused_by_its_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        Server(**{option: value})


def test_an_unknown_option_is_refused_by_its_name() -> None:
    with pytest.raises(TypeError, match="'tiemout'"):
        Server(tiemout=3)  # type: ignore[call-arg]  # that is the mistake
    with pytest.raises(TypeError):
        Server("localhost:0", 9)  # type: ignore[arg-type, call-arg, misc, unused-ignore]  # options are keywords


@pytest.mark.parametrize("processor", [3, object])
def test_an_object_that_is_not_a_processor_is_refused(processor: Any) -> None:
    with pytest.raises(TypeError, match="processor_list takes BaseProcessor objects"):
        Server(processor_list=[processor])


async def test_limits_reach_each_connection() -> None:
    size = 1 << 20
    limits: dict[str, Any] = {
        "max_message": size,
        "max_unfinished": 2 * size,
        "max_requests": 3 * size,
        "max_backlog": 4 * size,
    }
    rates: dict[str, Any] = {"max_cancels": 7, "max_pings": 8, "stall_timeout": 3}
    async with serving(fine, **limits, **rates) as server:
        ours: dict[str, Any] = {"max_message": size, "max_unfinished": 5 * size}
        ours |= {"max_pings": 9, "stall_timeout": 4}
        async with Client(str(server.addresses[0]), **ours) as client:
            await client.raw_call("fine")
            (conn,) = server.connection_manager.connections
            assert {name: getattr(conn.options.limits, name) for name in limits} == limits
            assert {name: getattr(conn.options, name) for name in rates} == rates
            (node,) = client.cluster.nodes.values()
            (near,) = node.pool.connections
            assert near.options.limits.most_unfinished == 5 * size
            assert (near.options.max_pings, near.options.stall_timeout) == (9, 4)
