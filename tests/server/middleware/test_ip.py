"""Middleware that admits connections by address."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from rap.server.middleware import IpBlockMiddleware
from rap.transport import Connection
from tests.loopback import calling, serving
from tests.server.middleware.refusals import is_refused


async def add(a: int, b: int) -> int:
    return a + b


async def admits(middleware: IpBlockMiddleware, host: str) -> bool:
    """Whether a connection from an address reaches the next in the chain."""
    admitted: list[object] = []

    async def call_next(conn: Connection) -> None:
        admitted.append(conn)

    async def refuse(*_: object) -> None:
        pass

    middleware.call_next = call_next
    middleware.__dict__["refuse"] = refuse  # there is no connection to close
    conn = cast(Connection, SimpleNamespace(peer=SimpleNamespace(host=host)))
    await middleware.dispatch(conn)
    return bool(admitted)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("192.168.0.0/31", "192.168.0.1", "192.168.0.2"),
        ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
        ("0.0.0.0/0", "8.8.8.8", "::1"),
        ("::/0", "::1", "8.8.8.8"),
    ],
)
async def test_an_entry_matches_its_network(entry: str, inside: str, outside: str) -> None:
    allowing = IpBlockMiddleware(allow_ip_list=[entry])
    assert await admits(allowing, inside)
    assert not await admits(allowing, outside)
    blocking = IpBlockMiddleware(block_ip_list=[entry])
    assert not await admits(blocking, inside)
    assert await admits(blocking, outside)


async def test_an_allow_list_disables_the_block_list() -> None:
    middleware = IpBlockMiddleware(["10.0.0.0/8"], block_ip_list=["10.0.0.1"])
    assert await admits(middleware, "10.0.0.1")
    assert not await admits(middleware, "11.0.0.1")


async def test_a_unix_socket_has_no_address_and_is_admitted() -> None:
    assert await admits(IpBlockMiddleware(["10.0.0.0/8"]), "")


@pytest.mark.parametrize("option", ["allow_ip_list", "block_ip_list"])
@pytest.mark.parametrize("entry", ["10.0.0.256", "10.0.0.1/8", "10.0.0.0/33", "host", "", 7, None])
def test_a_malformed_entry_is_refused(option: str, entry: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} takes addresses and networks .*, got "):
        IpBlockMiddleware(**{option: ["10.0.0.1", entry]})


def test_a_string_is_not_a_list_of_entries() -> None:
    with pytest.raises(ValueError, match=r"allow_ip_list must be a list .*, got '10\.0\.0\.1'"):
        IpBlockMiddleware("10.0.0.1")


async def test_the_lists_can_be_changed_by_private_functions() -> None:
    async with serving(add, middleware_list=[IpBlockMiddleware()]) as server:
        async with calling(server) as client:

            async def ask(name: str, *args: str) -> Any:
                return await client.raw_call(name, *args, group="IpBlockMiddleware")

            await ask("add_block_ip", "10.0.0.0/8")
            await ask("add_block_ip", "2001:db8::1")
            assert await ask("get_block_ip") == ["10.0.0.0/8", "2001:db8::1"]
            await ask("remove_block_ip", "10.0.0.0/8")
            assert await ask("get_block_ip") == ["2001:db8::1"]
            await ask("add_allow_ip", "127.0.0.1")
            assert await ask("get_allow_ip") == ["127.0.0.1"]
            with pytest.raises(ValueError, match=r"allow_ip_list has no entry '127\.0\.0\.2'"):
                await ask("remove_allow_ip", "127.0.0.2")
            with pytest.raises(ValueError, match="allow_ip_list takes addresses"):
                await ask("add_allow_ip", "everybody")
            await ask("remove_allow_ip", "127.0.0.1")
            assert await ask("get_allow_ip") == []


async def test_emptying_the_allow_list_logs_a_warning_and_enables_the_block_list(
    caplog: pytest.LogCaptureFixture,
) -> None:
    middleware = IpBlockMiddleware(["10.0.0.0/8"], block_ip_list=["11.0.0.1"])
    middleware.remove_allow_ip("10.0.0.0/8")
    assert "the allow list is empty" in caplog.text
    assert await admits(middleware, "12.0.0.1")
    assert not await admits(middleware, "11.0.0.1")


async def test_a_client_of_a_blocked_address_gets_the_reason() -> None:
    chain = [IpBlockMiddleware(block_ip_list=["127.0.0.0/8"])]
    async with serving(add, middleware_list=chain) as server:
        assert await is_refused(server, "the address 127.0.0.1 may not connect")


def test_a_large_network_is_one_entry() -> None:
    networks = [f"{n}.0.0.0/8" for n in range(256)] + ["::/0"]
    assert IpBlockMiddleware(block_ip_list=networks).get_block_ip() == networks
