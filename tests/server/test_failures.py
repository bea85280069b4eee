from rap.address import Peer
from rap.server.failures import Failures
from tests.fake_clock import FakeClock

ALICE, BOB = Peer("192.0.2.1", 1), Peer("192.0.2.2", 2)


def failures(limit: int = 2) -> tuple[Failures, FakeClock]:
    clock = FakeClock()
    return Failures(limit, clock), clock


def test_an_address_is_blocked_until_its_minute_is_over() -> None:
    count, clock = failures()
    count.add(ALICE)
    clock.advance(20.0)
    assert not count.blocked(ALICE)
    count.add(ALICE)
    assert count.blocked(ALICE) == 40.0
    assert not count.blocked(BOB)
    clock.advance(40.0)
    assert not count.blocked(ALICE)
    assert count.total == 2


def test_a_new_minute_counts_anew() -> None:
    count, clock = failures()
    count.add(ALICE)
    clock.advance(60.0)
    count.add(ALICE)
    assert not count.blocked(ALICE)


def test_ports_do_not_matter_and_ipv6_counts_by_network() -> None:
    count, _ = failures(1)
    count.add(Peer("192.0.2.1", 5))
    assert count.blocked(ALICE)
    count.add(Peer("2001:db8::1", 1))
    assert count.blocked(Peer("2001:db8::2", 1))
    assert not count.blocked(Peer("2001:db8:0:1::1", 1))


def test_peers_on_a_unix_socket_are_one_address() -> None:
    count, _ = failures(1)
    count.add(Peer(is_local=True))
    assert count.blocked(Peer(is_local=True))


def test_memory_is_bounded() -> None:
    count, _ = failures(1)
    for i in range(10_001):
        count.add(Peer(f"10.0.{i // 256}.{i % 256}", 1))
    assert not count.blocked(Peer("10.0.0.0", 1))
    assert count.blocked(Peer("10.0.0.1", 1))
