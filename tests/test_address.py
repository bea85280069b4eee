"""Addresses and peers: what can be written, what it means, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.address import Address, Peer


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:9000", Address("tcp", "localhost", 9000)),
        ("tcp://calc.example:1", Address("tcp", "calc.example", 1)),
        ("tls://10.0.0.1:65535", Address("tls", "10.0.0.1", 65535)),
        ("[::1]:9000", Address("tcp", "::1", 9000)),
        ("tls://[fe80::1%eth0]:0", Address("tls", "fe80::1%eth0", 0)),
        ("unix:///run/calc.sock", Address("unix", path="/run/calc.sock")),
        ("0.0.0.0:0", Address("tcp", "0.0.0.0", 0)),
    ],
)
def test_each_form_of_an_address_is_understood(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    "text", ["localhost:9000", "tls://10.0.0.1:1", "[::1]:9000", "unix:///run/a b.sock"]
)
def test_an_address_is_printed_as_it_was_written(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_an_address_is_parsed_to_itself() -> None:
    address = Address("tcp", "localhost", 9000)
    assert Address.parse(address) is address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":9000",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:65536",
        "localhost:٣",
        "::1:9000",
        "[]:9000",
        "[localhost]:9000",
        "[127.0.0.1]:9000",
        "http://localhost:9000",
        "tcp://user@host:1",
        "tcp://host/path:1",
        "host name:1",
        "unix://run/calc.sock",
        "unix://",
    ],
)
def test_a_malformed_address_is_refused_with_option_and_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"^advertise\b") as caught:
        Address.parse(text, option="advertise")
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 9000, b"localhost:9000", ("localhost", 9000)])
def test_what_is_no_text_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="address must be"):
        Address.parse(wrong)  # type: ignore[arg-type]  # on purpose


hosts = st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True) | st.ip_addresses(v=6).map(str)


@given(st.sampled_from(["tcp", "tls"]), hosts, st.integers(0, 65535))
def test_every_address_survives_printing_and_parsing(scheme: str, host: str, port: int) -> None:
    address = Address(scheme, host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "wildcard", "loopback"),
    [
        ("0.0.0.0:1", True, False),
        ("[::]:1", True, False),
        ("localhost:1", False, True),
        ("127.8.8.8:1", False, True),
        ("[::1]:1", False, True),
        ("10.0.0.1:1", False, False),
        ("calc.example:1", False, False),
        ("unix:///a", False, True),
    ],
)
def test_an_address_knows_who_can_reach_it(text: str, wildcard: bool, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.is_wildcard, address.is_loopback) == (wildcard, loopback)


@pytest.mark.parametrize(
    ("name", "peer", "text"),
    [
        (("127.0.0.1", 5000), Peer("127.0.0.1", 5000, True), "127.0.0.1:5000"),
        (("10.0.0.9", 5000), Peer("10.0.0.9", 5000, False), "10.0.0.9:5000"),
        (("::1", 5000, 0, 0), Peer("::1", 5000, True), "[::1]:5000"),
        (("fe80::1%eth0", 1, 0, 2), Peer("fe80::1", 1, False), "[fe80::1]:1"),
        (("::ffff:127.0.0.1", 1, 0, 0), Peer("127.0.0.1", 1, True), "127.0.0.1:1"),
        (("::ffff:10.0.0.9", 1, 0, 0), Peer("10.0.0.9", 1, False), "10.0.0.9:1"),
        ("", Peer(is_local=True), "unix"),
        (None, Peer(is_local=True), "unix"),
    ],
)
def test_a_peer_is_what_the_socket_says(name: object, peer: Peer, text: str) -> None:
    assert Peer.from_sockname(name) == peer
    assert str(peer) == text


def test_a_peer_keeps_its_verified_identity() -> None:
    subject = ((("commonName", "calc"),),)
    assert Peer.from_sockname(("10.0.0.9", 1), subject).identity == subject
