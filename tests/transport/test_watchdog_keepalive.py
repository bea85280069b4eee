import pytest

from rap.client.config import ClientConfig
from rap.transport.options import KeepaliveOptions
from rap.transport.watchdog import Keepalive, PingAction

OPTIONS = KeepaliveOptions(idle=30.0, busy=1.0, timeout=2.5, failures=2)


def test_silence_is_answered_by_a_ping_sooner_with_calls_open() -> None:
    for busy, after in ((True, 1.0), (False, 30.0)):
        alive = Keepalive(OPTIONS, 100.0)
        early = alive.check(100.0 + after - 0.1, active=False, busy=busy)
        assert early == (PingAction.WAIT, 100.0 + after)
        assert alive.check(100.0 + after, active=False, busy=busy) == (
            PingAction.PING,
            102.5 + after,
        )


def test_activity_counts_from_the_check_that_reports_it() -> None:
    alive = Keepalive(OPTIONS, 0.0)
    assert alive.check(5.0, active=True, busy=True) == (PingAction.WAIT, 6.0)
    assert alive.check(6.0, active=False, busy=True) == (PingAction.PING, 8.5)


def test_a_ping_without_an_answer_is_repeated_then_the_peer_is_given_up() -> None:
    alive = Keepalive(OPTIONS, 0.0)
    moves = [alive.check(now, active=False, busy=True)[0] for now in (1.0, 3.4, 3.5, 5.9, 6.0)]
    assert moves == [
        PingAction.PING,
        PingAction.WAIT,
        PingAction.PING,
        PingAction.WAIT,
        PingAction.CLOSE,
    ]


def test_a_dead_peer_with_calls_open_is_given_up_within_seven_seconds() -> None:
    alive = Keepalive(KeepaliveOptions(), 0.0)
    now, move = 0.9, alive.check(0.9, active=True, busy=True)[0]  # its last byte came just now
    while move is not PingAction.CLOSE:
        now += 0.1
        move, _ = alive.check(now, active=False, busy=True)
    assert now <= 0.9 + 7.0


def test_pings_keep_the_interval_that_the_peer_asks_for() -> None:
    alive = Keepalive(OPTIONS, 0.0)
    alive.set_min_interval(4000)
    checks = [alive.check(now, active=False, busy=True) for now in (1.0, 4.0, 6.5, 8.0, 12.0)]
    assert checks == [
        (PingAction.WAIT, 4.0),
        (PingAction.PING, 8.0),
        (PingAction.WAIT, 8.0),
        (PingAction.PING, 10.5),  # no ping follows, so only the answer is waited for
        (PingAction.CLOSE, 12.0),
    ]


@pytest.mark.parametrize("min_ping", [None, 100])
@pytest.mark.parametrize("phase", [0.0, 0.2, 0.49])
def test_by_default_a_client_cuts_no_server_whose_loop_is_blocked_for_5_s(
    min_ping: int | None, phase: float
) -> None:
    config = ClientConfig()
    options = KeepaliveOptions(
        idle=config.ping_sleep_time,
        busy=config.ping_busy_time,
        timeout=config.ping_timeout,
        failures=config.ping_fail_cnt,
    )
    alive = Keepalive(options, 0.0)
    alive.set_min_interval(min_ping)
    frozen_at = 10.0 + phase  # the check at 10.5 still sees its last byte
    move, now = alive.check(10.5, active=True, busy=True)
    while move is not PingAction.CLOSE:
        move, now = alive.check(now, active=False, busy=True)
    assert 5.0 < now - frozen_at <= 7.0


def test_a_side_that_did_not_run_reads_before_it_gives_its_peer_up() -> None:
    alive = Keepalive(KeepaliveOptions(busy=1.0, timeout=2.5, failures=1), 0.0)
    assert alive.check(1.0, active=False, busy=True) == (PingAction.PING, 3.5)
    alive.postpone(8.0)  # the timer fired 4.5 s late
    assert alive.check(8.0, active=False, busy=True) == (PingAction.WAIT, 8.05)
    alive.postpone(9.0)  # once for each ping
    assert alive.check(9.0, active=False, busy=True)[0] is PingAction.CLOSE


@pytest.mark.parametrize(
    ("told", "least"),
    [(100, 0.1), (10**9, 30.0), (0, 0.0), (-1, 0.0), (None, 0.0), ("1", 0.0), (0.5, 0.0)],
)
def test_a_peer_cannot_forbid_pings(told: object, least: float) -> None:
    alive = Keepalive(OPTIONS, 0.0)
    alive.set_min_interval(told)
    assert alive.min_interval == least


def test_activity_starts_the_silence_over() -> None:
    alive = Keepalive(OPTIONS, 0.0)
    alive.check(1.0, active=False, busy=True)
    alive.check(3.5, active=False, busy=True)
    assert alive.check(4.0, active=True, busy=True) == (PingAction.WAIT, 5.0)
    assert alive.missed == 0
    assert alive.pinged_at is None


def test_an_answer_sets_the_round_trip_and_an_unrequested_one_does_not() -> None:
    alive = Keepalive(OPTIONS, 0.0)
    alive.on_pong(0.5)
    assert alive.round_trip is None
    alive.check(1.0, active=False, busy=True)
    alive.on_pong(1.25)
    assert alive.round_trip == 0.25


@pytest.mark.parametrize("name", ["idle", "busy", "timeout"])
@pytest.mark.parametrize("value", [0, -1, None, "1", True, float("nan")])
def test_a_bad_time_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        KeepaliveOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, True, 1.5, None])
def test_a_bad_number_of_failures_is_named(value: object) -> None:
    with pytest.raises(ValueError, match="failures must be an integer of at least 1"):
        KeepaliveOptions(failures=value)  # type: ignore[arg-type]
