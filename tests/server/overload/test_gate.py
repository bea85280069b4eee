"""The gate in simulated time: what begins, what waits, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rap.call import PRIORITIES
from tests.server.overload.simulated import Conn, SimulatedCall, Simulation

CRITICAL, DEFAULT, SHEDDABLE = range(len(PRIORITIES))
EAGER = pytest.mark.parametrize("eager", [False, True], ids=["by task", "eager"])


def share(calls: list[SimulatedCall]) -> float:
    return sum(call.succeeded for call in calls) / len(calls)


def test_calls_of_a_server_with_room_begin_at_once() -> None:
    sim = Simulation()
    sim.offer([Conn()], rate=100, duration=1, timeout=0.5, seconds=0.001)
    sim.run()
    assert sim.outcome() == {"good": 100}
    assert sim.gate.waited == 0.0


@EAGER
@pytest.mark.parametrize("load", [1.2, 2, 4, 10])
@pytest.mark.parametrize("clients", [1, 8])
def test_an_overloaded_server_goes_on_doing_what_it_can(
    eager: bool, load: float, clients: int
) -> None:
    sim = Simulation(eager=eager, read_cost=4e-6, refuse_cost=2e-6)
    conns = [Conn() for _ in range(clients)]
    sim.offer(conns, rate=load * 500, duration=4, timeout=0.5, seconds=0.002)
    sim.run()
    good = sim.outcome()["good"]
    assert good >= 0.95 * 500 * 4
    assert sim.outcome()["late answer"] <= 5


@EAGER
@pytest.mark.parametrize("waits", [0.001, 0.005, 0.02])
@pytest.mark.parametrize("load", [1.2, 2, 4])
def test_work_that_comes_after_a_wait_is_paced_too(eager: bool, waits: float, load: float) -> None:
    sim = Simulation(eager=eager, waits=waits, read_cost=4e-6, refuse_cost=2e-6)
    sim.offer([Conn()], rate=load * 500, duration=4, timeout=0.5, seconds=0.002)
    sim.run()
    assert sim.outcome()["good"] >= 0.9 * 500 * 4


def test_without_the_gate_an_overloaded_server_answers_nothing_in_time() -> None:
    sim = Simulation(is_on=False)
    sim.offer([Conn()], rate=1000, duration=4, timeout=0.5, seconds=0.002)
    sim.run()
    assert sim.outcome()["good"] < 0.5 * 500 * 4


@EAGER
def test_the_server_serves_every_call_as_soon_as_the_load_has_fallen(eager: bool) -> None:
    sim = Simulation(eager=eager)
    conn = Conn()
    sim.offer([conn], rate=2000, duration=3, timeout=0.5, seconds=0.002)
    after = sim.offer([conn], rate=250, duration=3, timeout=0.5, seconds=0.002, begin=3.5)
    sim.run()
    assert sim.outcome(after) == {"good": len(after)}


@EAGER
def test_the_loop_reads_its_sockets_every_slice(eager: bool) -> None:
    sim = Simulation(eager=eager)
    conn = Conn()
    sim.offer([conn], rate=500, duration=0.5, timeout=0.5, seconds=0.001)
    sim.arrive(conn, 0.5, 0.001, count=400, after=0.6)
    sim.run()
    assert sim.longest_turn <= 0.025


@EAGER
def test_a_server_that_has_just_started_does_not_begin_a_whole_burst(eager: bool) -> None:
    sim = Simulation(eager=eager)
    sim.arrive(Conn(), 0.5, 0.002, count=2000)
    sim.run()
    assert sim.longest_turn <= 0.03
    assert sim.outcome()["good"] >= 150


@EAGER
def test_a_polite_client_beside_a_greedy_one_is_served_in_full(eager: bool) -> None:
    sim = Simulation(eager=eager)
    greedy, polite = Conn(), Conn()
    sim.offer([greedy], rate=2000, duration=4, timeout=0.5, seconds=0.002)
    calls = sim.offer([polite], rate=50, duration=4, timeout=0.5, seconds=0.002)
    sim.run()
    assert sim.outcome(calls) == {"good": len(calls)}


@EAGER
@pytest.mark.parametrize("rate", [50, 200])
def test_a_client_with_quick_calls_beside_one_with_slow_ones_is_served_in_full(
    eager: bool, rate: float
) -> None:
    sim = Simulation(eager=eager)
    greedy, polite = Conn(), Conn()
    sim.offer([greedy], rate=130, duration=4, timeout=0.5, seconds=0.03)  # four times as many
    calls = sim.offer([polite], rate=rate, duration=4, timeout=0.5, seconds=0.0002)
    sim.run()
    assert sim.outcome(calls) == {"good": len(calls)}
    assert sim.outcome()["good"] >= len(calls) + 105


def seconds_of(calls: list[SimulatedCall]) -> float:
    return sum(call.seconds for call in calls if call.succeeded)


@EAGER
@pytest.mark.parametrize("costs", [(0.002, 0.002), (0.002, 0.02), (0.0005, 0.03)])
def test_connections_share_the_time_and_not_the_number_of_calls(
    eager: bool, costs: tuple[float, float]
) -> None:
    sim = Simulation(eager=eager)
    first, second = (
        sim.offer([Conn()], rate=1.5 / cost, duration=6, timeout=0.5, seconds=cost)
        for cost in costs
    )
    sim.run()
    assert seconds_of(first) + seconds_of(second) >= 0.85 * 6
    assert 0.75 <= seconds_of(first) / seconds_of(second) <= 1.35


@EAGER
def test_a_client_that_was_idle_has_not_saved_time_for_later(eager: bool) -> None:
    sim = Simulation(eager=eager)
    busy, idle = Conn(), Conn()
    before = sim.offer([busy], rate=2000, duration=4, timeout=0.5, seconds=0.002)
    sim.offer([idle], rate=10, duration=2, timeout=0.5, seconds=0.002)
    sim.offer([idle], rate=2000, duration=2, timeout=0.5, seconds=0.002, begin=2)
    sim.run()
    served = [call for call in before if call.succeeded and (call.began or 0) >= sim.began_at + 2]
    assert seconds_of(served) >= 0.4 * 2


@EAGER
def test_connections_that_had_their_turn_are_not_kept(eager: bool) -> None:
    sim = Simulation(eager=eager)
    sim.offer([Conn()], rate=1000, duration=4, timeout=0.5, seconds=0.002)
    for n in range(1000):
        sim.arrive(Conn(), 0.5, 0.0001, after=n / 300)
    most = 0
    while sim.is_busy:
        sim.turn()
        most = max(most, sim.gate.known)
    assert most <= 200
    assert sim.gate.known == 0


@EAGER
@pytest.mark.parametrize("seconds", [0.00003, 0.001, 0.005])
def test_a_burst_of_calls_with_much_time_loses_none(eager: bool, seconds: float) -> None:
    sim = Simulation(eager=eager)
    sim.arrive(Conn(), 9, seconds, count=1000)
    sim.run()
    assert sim.outcome() == {"good": 1000}


@EAGER
@pytest.mark.parametrize("pause", [0.1, 0.5])
def test_a_burst_loses_none_if_the_process_stands_still_in_it(eager: bool, pause: float) -> None:
    sim = Simulation(eager=eager)
    conn = Conn()
    sim.offer([conn], rate=100, duration=1, timeout=9, seconds=0.004)
    sim.arrive(conn, 9, 0.004, count=20, after=1.2)
    sim.arrive(conn, 9, pause, after=1.2)
    for n in range(60):
        sim.arrive(conn, 9, 0.004, count=10, after=1.2 + n / 1000)
    sim.run()
    assert sim.outcome()["good"] == len(sim.calls)


def test_a_burst_loses_none_after_cheap_and_after_dear_calls() -> None:
    for before in (0.00001, 0.05):
        sim = Simulation()
        conn = Conn()
        sim.offer([conn], rate=10, duration=2, timeout=9, seconds=before)
        sim.arrive(conn, 9, 0.003, count=1000, after=2.5)
        sim.run()
        assert sim.outcome()["good"] == len(sim.calls)


@EAGER
@pytest.mark.parametrize("timeout", [0.03, 0.05, 0.1])
def test_short_deadlines_are_kept_under_overload(eager: bool, timeout: float) -> None:
    sim = Simulation(eager=eager, read_cost=4e-6, refuse_cost=2e-6)
    sim.offer([Conn()], rate=2000, duration=3, timeout=timeout, seconds=0.001)
    sim.run()
    assert sim.outcome()["good"] >= 0.9 * 3000


@EAGER
def test_no_call_begins_after_its_deadline(eager: bool) -> None:
    sim = Simulation(eager=eager)
    sim.offer([Conn()], rate=4000, duration=2, timeout=0.2, seconds=0.002)
    sim.run()
    assert all(call.began <= call.deadline for call in sim.calls if call.began is not None)


@EAGER
def test_a_reset_that_has_arrived_is_seen_before_the_call_begins(eager: bool) -> None:
    sim = Simulation(eager=eager)
    conn = Conn()
    calls = sim.arrive(conn, 9, 0.002, count=500)
    sim.turn()
    for call in calls[100:]:
        sim.cancel_after(call, 0.1)
    at = sim.now + 0.1
    sim.run()
    late = [call for call in calls[100:] if call.began is not None and call.began > at + 0.025]
    assert late == []
    assert sim.outcome()["good"] + sim.outcome()["cancelled"] == 500


def test_calls_that_end_while_they_wait_leave_nothing() -> None:
    sim = Simulation()
    conns = [Conn() for _ in range(5)]
    calls = [call for conn in conns for call in sim.arrive(conn, 9, 0.002, count=50)]
    sim.turn()
    assert sim.gate.waiting > 0
    for call in calls:
        call.cancel()
    assert sim.gate.waiting == 0
    sim.run()
    after = sim.arrive(conns[0], 9, 0.001)
    sim.run()
    assert sim.outcome(after) == {"good": 1}


def test_connections_take_turns() -> None:
    sim = Simulation()
    first, second = Conn(), Conn()
    many = sim.arrive(first, 9, 0.002, count=300)
    few = sim.arrive(second, 9, 0.002, count=3)
    sim.run()
    assert max(call.ended or 0 for call in few) < sorted(call.ended or 0 for call in many)[30]


@EAGER
def test_the_lowest_priority_is_refused_first(eager: bool) -> None:
    sim = Simulation(eager=eager)
    conn = Conn()
    offered = [
        sim.offer([conn], rate=300, duration=4, timeout=0.5, seconds=0.002, priority=priority)
        for priority in (CRITICAL, DEFAULT, SHEDDABLE)
    ]  # 1.8 times what it can do, 0.6 times each
    sim.run()
    critical, default, sheddable = map(share, offered)
    assert critical == 1.0
    assert 0.5 < default < 0.8
    assert sheddable < 0.1


def test_calls_without_a_deadline_wait_and_are_bounded_by_number() -> None:
    sim = Simulation()
    sim.arrive(Conn(), seconds=0.001, count=20_000)
    sim.run()
    outcome = sim.outcome()
    assert outcome["queue"] > 3000
    assert outcome["good"] + outcome["queue"] == 20_000


def test_a_server_that_is_full_of_refusals_goes_on_serving() -> None:
    sim = Simulation(read_cost=5e-6, refuse_cost=5e-6)
    sim.offer([Conn() for _ in range(4)], rate=80_000, duration=1, timeout=0.5, seconds=0.0002)
    sim.run()
    assert sim.outcome()["good"] >= 800  # of 5,000 if refusals cost nothing


@given(
    eager=st.booleans(),
    bursts=st.lists(
        st.tuples(
            st.integers(0, 3),  # connection
            st.sampled_from([0.02, 0.1, 0.5, 9.0, float("inf")]),
            st.sampled_from([0.0, 0.00003, 0.002, 0.05]),
            st.integers(0, 2),
            st.integers(1, 120),
            st.floats(0, 1),
            st.floats(0, 1),  # share of them that is cancelled
        ),
        max_size=12,
    ),
)
@settings(max_examples=60, deadline=None)
def test_each_call_begins_or_is_refused_exactly_once(
    eager: bool, bursts: list[tuple[int, float, float, int, int, float, float]]
) -> None:
    sim = Simulation(eager=eager, read_cost=1e-6)
    conns = [Conn() for _ in range(4)]
    for conn, timeout, seconds, priority, count, after, cancelled in bursts:
        calls = sim.arrive(
            conns[conn], timeout, seconds, priority=priority, count=count, after=after
        )
        for call in calls[: round(cancelled * count)]:
            sim.cancel_after(call, after + 0.01)
    sim.run()
    outcome = sim.outcome()
    lost = [call for call in sim.calls if call.deadline > sim.now and call.cancelled is False]
    assert all(call.began is not None or call.refused is not None for call in lost)
    assert outcome.total() == len(sim.calls)
    assert sim.gate.waiting == 0
    assert all(call.line is None for call in sim.calls)
