"""When a silent peer is suspected to be gone: times are given, nothing here waits."""

import pytest

from rap.transport.suspicion import LOOK, Doubt, Suspicion


class Watched:
    """A peer that answers pings after a time, or not at all, and whoever looks at it."""

    def __init__(self, answers_in: float | None = None, *, least: float = 0.0) -> None:
        self.suspicion = Suspicion(0.0)
        self.now = 0.0
        self.answers_in = answers_in
        self.opened = 1
        self.pings: list[float] = []
        self.suspected: list[float] = []
        self.heard: list[float] = []
        self._least = least
        self._answers: list[float] = []  # when they arrive
        self.suspicion.begin(0.0, least)

    def run(self, until: float, *, busy: bool = True, traffic: bool = False) -> None:
        """Look as often as the suspicion asks for; `traffic`: something arrives all the time."""
        while self.now < until:
            doubt, due = self.suspicion.look(
                self.now, active=traffic, busy=busy, opened=self.opened, least=self._least
            )
            if doubt is Doubt.ASK:
                self.ask()
            elif doubt is Doubt.SUSPECT:
                self.suspected.append(self.now)
            elif doubt is Doubt.HEARD:
                self.heard.append(self.now)
            assert due > self.now
            due = min(due, until)
            while self._answers and self._answers[0] <= due:
                if self.suspicion.on_answer(answered := self._answers.pop(0)):
                    self.heard.append(answered)
            self.now = due

    def ask(self) -> None:
        self.pings.append(self.now)
        if self.answers_in is not None:
            self._answers.append(self.now + self.answers_in)


def test_a_silent_peer_is_pinged_after_a_fifth_of_a_second_and_suspect_a_quarter_later() -> None:
    watched = Watched()
    watched.run(5.0)
    assert watched.pings == [pytest.approx(0.2)]
    assert watched.suspected == [pytest.approx(0.45)]


def test_a_peer_that_is_heard_is_not_pinged() -> None:
    watched = Watched()
    watched.run(10.0, traffic=True)
    assert watched.pings == []


def test_a_peer_is_not_suspected_while_no_call_is_open() -> None:
    watched = Watched()
    watched.run(10.0, busy=False)
    assert watched.pings == []


def test_silence_before_a_call_is_opened_does_not_count() -> None:
    watched = Watched()
    watched.run(2.9, busy=False)
    assert not watched.suspicion.begin(2.9, 0.0)
    watched.run(5.0)
    assert watched.pings == [pytest.approx(3.1)]


def test_a_peer_that_was_not_heard_for_three_seconds_is_pinged_with_the_first_call() -> None:
    watched = Watched()
    watched.run(3.1, busy=False)
    assert watched.suspicion.begin(3.1, 0.0)
    watched.run(5.0)
    assert watched.pings == []  # by the look
    assert watched.suspected == [pytest.approx(3.35)]


def test_long_polls_cost_a_ping_in_a_second() -> None:
    watched = Watched(answers_in=0.001)
    watched.run(30.0)
    assert 30 <= len(watched.pings) <= 33
    assert watched.suspected == []


def test_the_next_call_ends_the_patience_of_long_polls() -> None:
    watched = Watched(answers_in=0.001)
    watched.run(10.0)
    assert watched.suspicion.is_patient
    watched.answers_in = None
    watched.opened += 1
    watched.suspicion.begin(10.0, 0.0)
    watched.run(11.0)
    assert watched.suspected == [pytest.approx(10.45)]


@pytest.mark.parametrize(
    ("answers_in", "patience"), [(0.05, 0.25), (0.2, 0.4), (0.24, 0.48), (0.6, 1.0), (0.9, 1.0)]
)
def test_patience_is_twice_the_slowest_recent_answer(answers_in: float, patience: float) -> None:
    watched = Watched(answers_in)
    watched.run(2.5)
    watched.answers_in, before = None, len(watched.suspected)
    watched.run(10.0)
    assert watched.suspected[before:] == [pytest.approx(watched.pings[-1] + patience)]


def test_an_answer_that_took_longer_than_a_second_is_not_learned() -> None:
    watched = Watched(1.5)
    watched.run(1.8)
    assert (len(watched.suspected), len(watched.heard)) == (1, 1)
    watched.answers_in = None
    watched.run(5.0)
    assert watched.suspected[1] == pytest.approx(watched.pings[-1] + 0.25)


def test_slow_answers_are_forgotten_after_a_minute() -> None:
    watched = Watched(0.4)
    watched.run(0.7)
    watched.answers_in = 0.001
    watched.run(70.0)
    watched.answers_in = None
    watched.run(75.0)
    assert watched.suspected[-1] == pytest.approx(watched.pings[-1] + 0.25)


def test_the_interval_that_the_peer_asks_for_is_kept() -> None:
    watched = Watched(answers_in=0.001, least=2.0)
    watched.run(20.0)
    gaps = [late - early for early, late in zip(watched.pings, watched.pings[1:], strict=False)]
    assert min(gaps) >= 2.0
    assert max(gaps) <= 2.0 + 2 * LOOK


def test_a_pause_of_this_process_counts_neither_as_silence_nor_as_a_slow_answer() -> None:
    watched = Watched()
    watched.run(0.3)
    assert watched.pings == [pytest.approx(0.2)]
    watched.suspicion.postpone(4.0)
    watched.now += 4.0
    watched.run(4.4)
    assert watched.suspected == []
    assert not watched.suspicion.on_answer(4.41)  # it took 0.21 s, as far as this process ran
    watched.suspicion.begin(4.41, 0.0)
    watched.now = 4.41
    watched.run(6.0)
    assert watched.suspected == [pytest.approx(watched.pings[-1] + 0.42)]


def test_a_peer_is_known_to_be_alive_while_it_owes_no_answer() -> None:
    watched = Watched()
    assert watched.suspicion.is_alive(3.0)
    assert not watched.suspicion.is_alive(3.1)
    assert watched.suspicion.ask(3.1, 0.0)
    assert not watched.suspicion.ask(3.2, 0.0)  # one at a time
    assert not watched.suspicion.is_alive(3.2)
    watched.suspicion.on_answer(3.3)
    assert watched.suspicion.is_alive(3.3)


def test_any_byte_ends_a_suspicion() -> None:
    watched = Watched()
    watched.run(1.0)
    assert watched.suspicion.suspected
    watched.run(1.2, traffic=True)
    assert not watched.suspicion.suspected
    assert watched.heard == [pytest.approx(1.0)]


def test_a_new_connection_knows_how_slowly_the_peer_answers_on_the_others() -> None:
    known = Watched(0.4)
    known.run(0.7)
    watched = Watched()
    watched.suspicion.learn(known.suspicion, 0.7)
    watched.run(5.0)
    assert watched.suspected == [pytest.approx(0.2 + 0.8)]


def test_a_new_connection_knows_how_long_the_peer_has_not_answered_on_the_others() -> None:
    silent = Watched()
    silent.run(0.8)
    watched = Watched()
    watched.suspicion.learn(silent.suspicion, 0.8)
    watched.run(5.0)
    assert watched.suspected == [pytest.approx(0.2 + 1.0)]
