"""Equal servers on a busy machine get equal shares; those that are slow for good get less.

Most calls take half a millisecond. Some are delayed by milliseconds, and a few by much more, as
where other processes use the same processor.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from rap.balance import PeakEwma, PowerOfTwoChoices
from tests.balance.nodes import LoadedNode, Timeline

SEEDS = range(3)


def noisy(rng: Random) -> float:
    usual = 0.0005 * rng.lognormvariate(0.0, 0.25)
    kind = rng.random()
    if kind < 0.10:
        return usual + rng.expovariate(1 / 0.004)
    if kind < 0.11:
        return usual + rng.uniform(0.02, 0.1)
    return usual


class OneByOne:
    """A client that makes one call at a time, with a pause after each."""

    def __init__(self, seed: int, servers: int, pause: float) -> None:
        self.timeline = Timeline()
        self.timeline.now = 1000.0
        self.nodes = tuple(LoadedNode(str(number), self.timeline) for number in range(servers))
        self.factors = [1.0] * servers
        self._rng = Random(seed)
        self._pick = PowerOfTwoChoices(Random(seed + 1)).pick
        self._pause = pause

    def call(self, count: int, took: Callable[[Random], float] = noisy) -> list[float]:
        """Make calls; return the share of each server in percent."""
        calls: Counter[int] = Counter()
        for _ in range(count):
            node = self._pick(self.nodes)
            number = int(node.key)
            calls[number] += 1
            node.stats.started(self.timeline.now)
            elapsed = took(self._rng) * self.factors[number]
            self.timeline.now += elapsed
            node.stats.finished(self.timeline.now, elapsed, True)
            self.timeline.now += self._pause
        return [100 * calls[number] / count for number in range(len(self.nodes))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pause", [0.01, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("servers", [2, 3, 5])
def test_equal_servers_get_equal_shares(servers: int, pause: float, seed: int) -> None:
    shares = OneByOne(seed, servers, pause).call(3000)
    assert shares == pytest.approx([100 / servers] * servers, abs=5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("servers", [2, 3, 5])
def test_they_do_in_most_seconds_too(servers: int, seed: int) -> None:
    client = OneByOne(seed, servers, 0.01)
    seconds = [client.call(100) for _ in range(60)]
    worst = sorted(max(abs(share - 100 / servers) for share in each) for each in seconds)
    assert worst[len(worst) // 2] <= 5
    assert sum(worst) / len(worst) <= 8


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("servers", [2, 3])
def test_a_server_that_takes_three_times_as_long_gets_much_less(servers: int, seed: int) -> None:
    client = OneByOne(seed, servers, 0.01)
    client.factors[0] = 3.0
    client.call(500)
    assert client.call(2000)[0] < 50 / servers


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("factor", "most"), [(10.0, 15), (100.0, 6), (1000.0, 3)])
def test_a_server_that_becomes_slow_gets_few_calls_at_once(
    seed: int, factor: float, most: float
) -> None:
    client = OneByOne(seed, 3, 0.01)
    client.call(1000)
    client.factors[0] = factor
    assert client.call(500)[0] < most
    assert client.call(2000)[0] < most


@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_that_was_slow_comes_back(seed: int) -> None:
    client = OneByOne(seed, 3, 0.01)
    client.factors[0] = 100.0
    client.call(2000)
    client.factors[0] = 1.0
    client.call(3000)
    assert client.call(1000) == pytest.approx([100 / 3] * 3, abs=10)


def pair(*, took: tuple[float, float] = (0.001, 0.001)) -> tuple[Timeline, PeakEwma, PeakEwma]:
    """Return two loads that have answered, the first one longer ago."""
    timeline = Timeline()
    timeline.now = 1000.0
    loads = PeakEwma(clock=timeline), PeakEwma(clock=timeline)
    for factor in (1.0, 0.95, 1.05, 0.9, 1.0) * 10:
        for load, elapsed in zip(loads, took, strict=True):
            answer(timeline, load, elapsed * factor)
    return timeline, *loads


def answer(timeline: Timeline, load: PeakEwma, elapsed: float) -> None:
    load.started(timeline.now)
    timeline.now += elapsed
    load.finished(timeline.now, elapsed, True)


@pytest.mark.parametrize("took", [(0.001, 0.001), (0.0015, 0.001), (0.001, 0.0015)])
def test_of_two_that_are_about_equally_fast_the_one_picked_longer_ago_wins(
    took: tuple[float, float],
) -> None:
    timeline, one, other = pair(took=took)
    assert one.beats(other)
    assert not other.beats(one)
    answer(timeline, one, took[0])
    assert other.beats(one)
    assert not one.beats(other)


def test_one_that_was_never_picked_wins_against_one_that_was() -> None:
    timeline = Timeline()
    known, new = PeakEwma(clock=timeline), PeakEwma(clock=timeline)
    answer(timeline, known, 0.001)
    assert new.beats(known)
    assert not known.beats(new)


def test_of_two_that_are_about_equally_fast_the_one_with_fewer_calls_wins() -> None:
    timeline, one, other = pair(took=(0.001, 0.0015))
    one.started(timeline.now)
    assert other.beats(one)
    assert not one.beats(other)


def test_streams_do_not_keep_calls_away() -> None:
    timeline, one, other = pair()
    for _ in range(100):
        one.stream_started()
    got = 0
    for _ in range(100):
        best = one if one.beats(other) else other
        got += best is one
        answer(timeline, best, 0.001)
    assert got == 50


def test_streams_that_wait_for_their_first_message_do_not_look_like_a_frozen_node() -> None:
    timeline, one, other = pair()
    one.stream_started()
    other.stream_started()
    timeline.now += 3600
    for load in (one, other):
        answer(timeline, load, 0.001)
    other.started(timeline.now)
    timeline.now += 1e-4
    assert one.beats(other)
    assert one.stall(timeline.now) == 0.0


def test_one_that_is_clearly_slower_loses_though_it_was_picked_longer_ago() -> None:
    _, slow, fast = pair(took=(0.003, 0.001))
    assert fast.beats(slow)
    assert not slow.beats(fast)


def test_a_peak_counts_for_twice_as_long_as_it_took() -> None:
    timeline, one, other = pair()
    answer(timeline, one, 0.1)
    answer(timeline, other, 0.001)
    assert other.beats(one)
    timeline.now += 0.18
    assert other.beats(one)
    timeline.now += 0.02
    assert one.beats(other)


def test_a_second_peak_in_a_row_counts_for_longer_than_itself() -> None:
    timeline, one, other = pair()
    for elapsed in (0.1, 0.11, 0.12):
        answer(timeline, one, elapsed)
    answer(timeline, other, 0.001)
    timeline.now += 0.3
    assert other.beats(one)


def test_an_answer_that_comes_fast_ends_a_peak() -> None:
    timeline, one, other = pair()
    one.started(timeline.now)
    one.started(timeline.now)
    timeline.now += 0.1
    one.finished(timeline.now, 0.1, True)
    answer(timeline, other, 0.001)
    assert other.beats(one)
    timeline.now += 0.006
    one.finished(timeline.now, 0.001, True)
    assert one.beats(other)


def test_a_first_answer_that_was_slow_does_not_decide() -> None:
    timeline = Timeline()
    timeline.now = 1000.0
    one, other = PeakEwma(clock=timeline), PeakEwma(clock=timeline)
    answer(timeline, one, 0.005)
    answer(timeline, other, 0.0005)
    assert one.beats(other)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("servers", [2, 3])
def test_first_answers_that_were_slow_are_soon_forgotten(servers: int, seed: int) -> None:
    """A connection is slow at first, and may be so for more than one call."""
    client = OneByOne(seed, servers, 0.01)
    for elapsed in (0.009, 0.007, 0.005):
        answer(client.timeline, client.nodes[0].stats, elapsed)
    client.call(400)
    assert client.call(600) == pytest.approx([100 / servers] * servers, abs=12)
