"""What a server publishes in its registry."""

import errno
import logging
import random
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from rap.address import Address
from rap.errors import RegistryError
from rap.registry.base import AddressTaken, Endpoint, State
from rap.registry.memory import MemoryRegistry
from rap.server import Server
from rap.server.config import ServerConfig
from rap.server.registration import Registration, route_address
from tests.fake_clock import FakeClock
from tests.loopback import LOOPBACK


class Book:
    """A registry on another host that keeps what is registered."""

    location = Address.parse("192.0.2.7:6379")

    def __init__(self, error: RegistryError | None = None) -> None:
        self.records: list[Endpoint] = []
        self.closed = False
        self._error = error

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        if self._error is not None:
            raise self._error
        self.records.append(endpoint)

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        self.records.append(endpoint)

    def watch(self, service: str) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True


async def registered(book: Any, bound: Sequence[str], **options: Any) -> Registration:
    """Return the registration of a server that is bound to addresses."""
    addresses = tuple(Address.parse(each) for each in bound)
    given: dict[str, Any] = {"weight": 1, "zone": "", "advertise": None, **options}
    registration = Registration(
        book,
        "calc",
        config=ServerConfig(addresses),
        incarnation="i",
        clock=FakeClock(),
        rng=random.Random(1),
        **given,
    )
    await registration.register(addresses, dict)
    return registration


@pytest.mark.parametrize(
    ("bound", "advertise", "published"),
    [
        (["192.0.2.1:5000"], None, "192.0.2.1:5000"),
        (["192.0.2.1:5000", "192.0.2.2:5001"], None, "192.0.2.1:5000"),
        (["tls://192.0.2.1:5000"], None, "tls://192.0.2.1:5000"),
        (["unix:///run/calc"], None, "unix:///run/calc"),
        (["0.0.0.0:5000"], "calc.example:80", "calc.example:80"),
        (["0.0.0.0:5000"], "calc.example:0", "calc.example:5000"),
        (["0.0.0.0:5000"], "[2001:db8::1]:80", "[2001:db8::1]:80"),
    ],
)
async def test_the_advertised_address_is_published(
    bound: list[str], advertise: str | None, published: str
) -> None:
    book = Book()
    registration = await registered(book, bound, advertise=advertise)
    assert book.records[0].id == str(book.records[0].address) == published
    await registration.deregister()


@pytest.mark.parametrize("wildcard", ["0.0.0.0:5000", "[::]:5000"])
async def test_a_wildcard_is_never_published(wildcard: str) -> None:
    book = Book()
    registration = await registered(book, [wildcard])
    assert not book.records[0].address.is_wildcard
    assert book.records[0].address.port == 5000
    await registration.deregister()


@pytest.mark.parametrize(
    ("registry", "wildcard", "host"),
    [
        ("127.0.0.3:6379", "0.0.0.0:5000", "127.0.0.1"),  # by the route, not what it is itself
        ("localhost:6379", "0.0.0.0:5000", "127.0.0.1"),
        ("[::1]:6379", "[::]:5000", "::1"),
        ("127.0.0.1:6379", "[::]:5000", None),  # of another family
        ("unix:///run/redis", "0.0.0.0:5000", None),
        ("no-such-host.invalid:6379", "0.0.0.0:5000", None),
        (Address("tcp", "\udcff", 6379), "0.0.0.0:5000", None),
    ],
    ids=str,
)
async def test_for_a_wildcard_the_address_of_the_route_to_the_registry_is_published(
    registry: str | Address, wildcard: str, host: str | None
) -> None:
    book = Book()
    book.location = Address.parse(registry)
    registration = await registered(book, [wildcard])
    published = book.records[0].address
    elsewhere = await route_address(Address.parse(wildcard).host, None)
    assert published.host == (host or elsewhere)
    await registration.deregister()


async def test_a_registry_name_that_resolves_to_loopback_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_debian(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        assert host == "myself"
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.1.1", port))]

    elsewhere = await route_address("0.0.0.0", None)
    monkeypatch.setattr(socket, "getaddrinfo", of_debian)
    assert await route_address("0.0.0.0", Address.parse("myself:6379")) == elsewhere


async def test_a_wildcard_without_a_route_out_gives_the_warning_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def nowhere(wildcard: str, registry: Address | None) -> str:
        return "127.0.0.1"

    monkeypatch.setattr("rap.server.registration.route_address", nowhere)
    registration = await registered(Book(), ["0.0.0.0:5000"])
    assert caplog.text.count("pass advertise=") == 1
    await registration.deregister()


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
async def test_without_a_route_the_loopback_address_is_published(
    wildcard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(sock: socket.socket, target: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    address = await route_address(wildcard, Address.parse("192.0.2.7:6379"))
    assert Address("tcp", address, 1).is_loopback


@pytest.mark.parametrize(
    ("bound", "advertise", "warned"),
    [
        ("127.0.0.1:5000", None, True),
        ("localhost:5000", None, True),
        ("127.0.0.1:5000", "127.0.0.1:5000", False),  # its user knows
        ("192.0.2.1:5000", None, False),
    ],
)
async def test_a_loopback_address_in_a_remote_registry_gives_one_warning(
    bound: str, advertise: str | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    registration = await registered(Book(), [bound], advertise=advertise)
    await registration.set_state(State.DRAINING)
    assert caplog.text.count("pass advertise=") == warned
    await registration.deregister()


async def test_a_loopback_address_in_a_local_registry_gives_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registration = await registered(MemoryRegistry(), ["127.0.0.1:5000"])
    assert caplog.text == ""
    await registration.deregister()


async def test_weight_zone_and_state_are_published() -> None:
    book = Book()
    registration = await registered(book, ["192.0.2.1:5000"], weight=7, zone="z")
    await registration.set_state(State.DRAINING)
    assert [(e.weight, e.zone, e.incarnation) for e in book.records] == [(7, "z", "i")] * 2
    assert [e.state for e in book.records] == [State.UP, State.DRAINING]
    await registration.deregister()
    await registration.deregister()
    assert len(book.records) == 3
    assert not book.closed  # it is the user's


async def test_a_second_process_with_the_same_address_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rap.registry")
    registration = await registered(Book(AddressTaken("192.0.2.1:5000", 9.0)), ["192.0.2.1:5000"])
    assert "192.0.2.1:5000" in caplog.text
    await registration.deregister()


async def test_a_server_starts_while_its_registry_is_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book: Any = Book(RegistryError("no answer"))
    async with Server(LOOPBACK, service="calc", registry=book, drain_delay=0) as server:
        assert server.is_serving
        assert "no answer" in caplog.text


async def test_without_a_registry_nothing_is_published() -> None:
    registration = await registered(None, ["127.0.0.1:5000"])
    await registration.set_state(State.DRAINING)
    assert not registration.is_registered
    await registration.deregister()


def test_a_registry_that_cannot_register_is_refused() -> None:
    with pytest.raises(ValueError, match="only lists servers, none can register there"):
        Server(LOOPBACK, service="calc", registry="static://127.0.0.1:1")


def test_a_weight_of_0_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r"weight must be .* 1 to 1000, got 0; .*set_serving"):
        Server(LOOPBACK, weight=0)
