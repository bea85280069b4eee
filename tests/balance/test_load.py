"""PeakEwma: what calls cost, and how an average rises and falls."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance.load import EPSILON, Load, PeakEwma, median_ewma
from rap.errors import Verdict


def measured(ewma: float, *, at: float = 0.0) -> PeakEwma:
    load = PeakEwma()
    load.started(at)
    load.finished(at, ewma, True)
    return load


def test_every_end_of_a_call_takes_it_out_of_flight() -> None:
    load: Load = PeakEwma()
    for _ in range(6):
        load.started(0.0)
    load.finished(1.0, 1.0, True)
    load.finished(1.0, 1.0, False)
    for verdict in Verdict:
        load.failed(1.0, 1.0, verdict, None)
    assert load.in_flight == 0


def test_each_call_makes_a_node_dearer_and_no_stream_does() -> None:
    load: Load = PeakEwma()
    idle = load.value(0.0)
    load.started(0.0)
    one = load.value(0.0)
    load.stream_started()
    assert idle < one == load.value(0.0)
    load.started(0.0)
    assert one < load.value(0.0)


def test_a_slower_answer_raises_the_average_at_once() -> None:
    load = measured(0.010)
    load.started(1.0)
    load.finished(1.5, 0.5, True)
    assert load.ewma == 0.5


def test_a_faster_answer_lowers_the_average_by_the_time_passed() -> None:
    load = measured(1.0, at=0.0)
    load.started(10.0)
    load.finished(10.0, 0.2, True)
    assert load.ewma == pytest.approx(0.2 + 0.8 * exp(-1))


def test_an_error_that_was_answered_raises_the_average_but_never_lowers_it() -> None:
    load = measured(0.1)
    for elapsed, average in [(0.001, 0.1), (0.3, 0.3), (0.2, 0.3)]:
        load.started(5.0)
        load.failed(5.0, elapsed, Verdict.ANSWERED, None)
        assert load.ewma == average


def test_a_quick_error_does_not_count_as_a_measurement() -> None:
    load = PeakEwma()
    load.prior = 0.05
    load.started(0.0)
    load.finished(0.001, 0.001, False)
    assert not load.measured
    assert load.value(0.0) == pytest.approx(0.05 + EPSILON)


def test_before_the_first_result_a_node_does_not_look_faster_than_its_errors_come() -> None:
    load = PeakEwma()
    load.assume(0.1)
    for elapsed, prior in ((0.05, 0.1), (0.2, 0.2), (0.15, 0.2)):
        load.started(0.0)
        load.failed(0.0, elapsed, Verdict.ANSWERED, None)
        assert (load.prior, load.measured) == (prior, False)
    load.started(0.0)
    load.finished(0.0, 0.01, True)
    assert load.ewma == 0.01


def test_a_success_is_the_first_measurement_even_if_it_took_no_time() -> None:
    load = measured(0.0)
    assert load.measured
    assert load.ewma == 0.0


@pytest.mark.parametrize(
    ("elapsed", "penalty", "cost"),
    [(0.001, None, 5.0), (9.0, None, 9.0), (0.1, 20.0, 20.0), (0.1, 0.5, 0.5), (1.0, 1e9, 300.0)],
)
def test_a_failure_costs_its_penalty_or_its_own_time(
    elapsed: float, penalty: float | None, cost: float
) -> None:
    load = measured(0.01)
    load.started(0.0)
    load.failed(elapsed, elapsed, Verdict.FAILURE, penalty)
    assert load.ewma == cost


def test_a_small_penalty_lowers_neither_the_average_nor_the_prior() -> None:
    known, unknown = measured(0.4), PeakEwma()
    unknown.prior = 0.3
    for load in (known, unknown):
        load.started(0.0)
        load.failed(0.0, 0.001, Verdict.FAILURE, 0.002)
    assert (known.ewma, unknown.ewma, unknown.measured) == (0.4, 0.3, True)


def test_a_penalty_is_forgotten_with_the_first_result_of_a_call_that_began_after_it() -> None:
    load = measured(0.01)
    load.started(1.0)
    load.started(1.0)
    load.failed(1.1, 0.1, Verdict.FAILURE, None)
    load.finished(1.2, 0.2, True)  # it began before
    assert load.ewma == 5.0
    load.started(4.0)
    load.finished(4.01, 0.01, False)  # it is no result
    assert load.ewma == 5.0
    load.started(4.1)
    load.finished(4.11, 0.01, True)
    assert load.ewma == 0.1  # which the failure took
    load.started(5.0)
    load.finished(14.11, 0.01, True)
    assert load.ewma == pytest.approx(0.01 + 0.09 * exp(-1))


def test_several_failures_are_forgotten_like_one() -> None:
    load = measured(0.02)
    for second in (1.0, 2.0, 3.0):
        load.started(second)
        load.failed(second, 0.0, Verdict.FAILURE, None)
    load.started(4.0)
    load.finished(4.01, 0.01, True)
    assert load.ewma == 0.02


def test_a_failure_of_a_node_that_was_not_measured_gives_back_what_was_assumed() -> None:
    load = PeakEwma()
    load.assume(0.03)
    load.started(1.0)
    load.failed(1.0, 0.0, Verdict.FAILURE, None)
    load.started(2.0)
    load.finished(2.01, 0.01, True)
    assert load.ewma == 0.03


def test_the_time_that_a_failed_call_took_is_not_forgotten() -> None:
    load = measured(0.01)
    load.started(1.0)
    load.failed(1.5, 0.5, Verdict.FAILURE, 0.5)  # its answer did not come in time
    load.started(2.0)
    load.finished(2.01, 0.01, True)
    assert load.ewma == pytest.approx(0.01 + 0.49 * exp(-0.051))


def test_an_answer_that_took_longer_than_the_penalty_is_not_forgotten() -> None:
    load = measured(0.01)
    load.started(1.0)
    load.failed(1.0, 0.0, Verdict.FAILURE, None)
    load.started(2.0)
    load.finished(9.0, 7.0, True)
    load.started(9.0)
    load.finished(9.01, 0.01, True)
    assert load.ewma > 6.9


def test_an_ignored_call_changes_nothing_but_the_number_in_flight() -> None:
    load = measured(0.2)
    load.started(1.0)
    load.started(1.0)
    before = load.value(3.0) / 3
    load.failed(3.0, 2.0, Verdict.IGNORED, None)
    assert load.ewma == 0.2
    assert load.value(3.0) / 2 == before


def test_a_node_that_froze_costs_more_with_every_moment() -> None:
    load = measured(0.01)
    load.started(10.0)
    assert load.value(10.0) == pytest.approx(2 * (0.01 + EPSILON))
    assert load.value(10.5) == pytest.approx(2 * (0.5 + EPSILON))
    load.started(11.0)  # a call given to it is no progress
    assert load.value(14.0) == pytest.approx(3 * (4.0 + EPSILON))


def test_an_answer_ends_the_stall() -> None:
    load = measured(0.01)
    load.started(10.0)
    load.started(10.0)
    load.finished(12.0, 0.005, False)
    assert load.value(12.0) == pytest.approx(2 * (0.01 + EPSILON))


def test_calls_that_time_out_are_no_progress() -> None:
    load = measured(0.01)
    load.started(0.0)
    load.started(0.0)
    load.failed(9.0, 9.0, Verdict.FAILURE, None)
    assert load.value(20.0) == pytest.approx(2 * (20.0 + EPSILON))


def test_time_without_calls_is_no_stall() -> None:
    load = measured(0.01, at=0.0)
    load.started(1000.0)
    assert load.value(1000.0) == pytest.approx(2 * (0.01 + EPSILON))


def test_an_unmeasured_node_takes_the_prior() -> None:
    load = PeakEwma()
    load.prior = 0.25
    assert load.value(0.0) == pytest.approx(0.25 + EPSILON)
    load.started(0.0)
    load.finished(0.1, 0.1, True)
    assert load.value(0.1) == pytest.approx(0.1 + EPSILON)


def test_an_idle_node_that_was_not_picked_for_three_seconds_is_stale_and_almost_free() -> None:
    load = measured(5.0, at=0.0)
    assert not load.stale(3.0)
    assert load.value(3.0) > 5.0
    assert load.stale(3.1)
    assert load.value(3.1) == pytest.approx(EPSILON)


def test_a_stale_node_that_is_not_known_to_be_alive_costs_more_than_any_other() -> None:
    asked: list[float] = []
    alive = False

    def prove(now: float) -> bool:
        asked.append(now)
        return alive

    load = PeakEwma(prove=prove)
    load.started(0.0)
    load.finished(0.1, 0.1, True)
    assert load.value(2.0) < 1.0
    assert asked == []
    assert load.value(3.2) > 200.0
    alive = True
    assert load.value(3.3) < 0.001
    assert asked == [3.2, 3.3]


@pytest.mark.parametrize("verdict", [Verdict.SUCCESS, Verdict.FAILURE])
def test_a_node_that_is_heard_again_has_the_latency_of_the_others(verdict: Verdict) -> None:
    load = measured(0.01, at=0.0)
    for _ in range(3):
        load.started(1.0)
    load.failed(1.5, 0.5, Verdict.FAILURE, 0.5)  # it was made elsewhere, too
    load.end_silence(4.0, 0.02)
    assert load.value(4.0) == pytest.approx((3.0 + EPSILON) * 3)  # calls still wait
    load.finished(4.001, 3.001, True)
    load.failed(4.002, 3.002, verdict, 5.0)
    assert load.value(4.1) == pytest.approx(EPSILON)
    load.started(4.1)
    assert load.value(4.1) == pytest.approx((0.02 + EPSILON) * 2)
    load.finished(4.13, 0.03, True)
    assert load.value(4.2) == pytest.approx(0.03 + EPSILON)
    load.started(4.2)
    load.failed(4.3, 0.1, Verdict.FAILURE, None)
    assert load.value(4.4) == pytest.approx(5.0 + EPSILON)


def test_one_call_ends_staleness() -> None:
    load = measured(5.0, at=0.0)
    load.started(10.0)
    assert not load.stale(10.0)
    assert load.value(10.0) > 10.0


def test_a_node_that_hangs_is_not_stale() -> None:
    load = measured(0.1, at=0.0)
    load.started(1.0)
    assert not load.stale(100.0)
    assert load.value(100.0) > 99.0


def test_a_newcomer_is_not_stale() -> None:
    assert not PeakEwma().stale(1e9)


def test_the_median_of_others_leaves_out_those_not_measured() -> None:
    loads = [measured(0.1), PeakEwma(), measured(0.2), measured(9.0)]
    assert median_ewma(loads) == 0.2
    assert median_ewma([PeakEwma()]) == 0.0


@pytest.mark.parametrize("decay", [0.0, -1.0, float("inf"), float("nan")])
def test_a_decay_that_is_no_positive_time_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must be more than 0 seconds"):
        PeakEwma(decay)


seconds = st.floats(0.0, 100.0, allow_nan=False)
ends = st.tuples(seconds, seconds, st.sampled_from(Verdict), st.none() | seconds)


@given(st.lists(ends))
def test_the_average_stays_between_the_fastest_result_and_the_worst_end(
    calls: list[tuple[float, float, Verdict, float | None]],
) -> None:
    load = measured(1.0)
    low, high = 1.0, 1.0
    now = 0.0
    for wait, elapsed, verdict, penalty in calls:
        now += wait
        before = load.ewma
        load.started(now)
        load.failed(now, elapsed, verdict, penalty)
        high = max(high, elapsed, 5.0 if penalty is None else penalty)
        if verdict is Verdict.SUCCESS:
            low = min(low, elapsed)
        else:
            assert load.ewma >= before
        assert low <= load.ewma * (1 + 1e-9)
        assert load.ewma <= high * (1 + 1e-9)
        assert load.value(now) > 0.0
