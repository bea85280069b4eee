"""Samples of calls, which tell of which functions the calls begin to wait."""

from typing import Any

import pytest

from rap.errors import DeadlineExceeded
from rap.server.overload.lookout import Lookout
from tests.fake_clock import FakeClock


class Call:
    """A call that is its own task."""

    def __init__(self, method: str, deadline: float) -> None:
        self.method = method
        self.deadline = deadline
        self.error: Any = None
        self.is_excused = False
        self.callbacks: list[Any] = []
        self.has_ended = False

    @property
    def task(self) -> Any:
        return self

    def done(self) -> bool:
        return self.has_ended

    def add_done_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def end(self, error: Any = None) -> None:
        self.error = error
        self.has_ended = True
        for callback in self.callbacks:
            callback(self)


class Seen:
    """A lookout, and the functions that it has named."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.slow: list[str] = []
        self.lookout: Lookout[Call] = Lookout(clock.monotonic, self._soon, self._note)

    def add(self, method: str = "/default/f", timeout: float = 1.0) -> Call:
        """Let a call begin that is a sample."""
        call = Call(method, self.clock.monotonic() + timeout)
        self.lookout.add(call, self.clock.monotonic())
        return call

    def serve(self, seconds: float, times: int = 1, timeout: float = 1.0) -> None:
        """Let calls begin and end one after another."""
        for _ in range(times):
            call = self.add(timeout=timeout)
            self.clock.advance(seconds)
            call.end()

    def _soon(self, callback: Any, *args: Any) -> None:
        callback(*args)

    def _note(self, call: Call) -> None:
        self.slow.append(call.method)


@pytest.fixture
def seen(clock: FakeClock) -> Seen:
    return Seen(clock)


def test_a_function_whose_samples_run_long_is_named_before_any_expires(seen: Seen) -> None:
    seen.serve(0.05, 10)
    for _ in range(3):
        seen.add()
        seen.clock.advance(0.01)
    seen.clock.advance(0.2)
    seen.add("/default/g")
    assert seen.slow == []
    seen.add()
    assert seen.slow == ["/default/f"]


def test_one_slow_sample_is_not_enough(seen: Seen) -> None:
    seen.serve(0.05, 10)
    for _ in range(20):
        seen.add()
        seen.clock.advance(0.3)
        seen.serve(0.05)
    assert seen.slow == []


def test_a_function_that_is_always_slow_is_not_named(seen: Seen) -> None:
    running = []
    for _ in range(300):
        running.append(seen.add())
        seen.clock.advance(0.1)
        if len(running) > 8:
            running.pop(0).end()
    assert seen.slow == []


def test_what_is_usual_is_how_long_answered_samples_took(seen: Seen) -> None:
    assert seen.lookout.usual("/default/f") is None
    seen.serve(0.05, 100)
    seen.add().end(DeadlineExceeded("late"))
    assert seen.lookout.usual("/default/f") == pytest.approx(0.05)
    seen.serve(0.1, 300)
    assert seen.lookout.usual("/default/f") == pytest.approx(0.1, rel=0.05)


def test_a_function_may_take_twice_as_long_as_usual(seen: Seen) -> None:
    seen.serve(0.3, 50)
    for _ in range(3):
        seen.add()
    seen.clock.advance(0.55)
    seen.add()
    assert seen.slow == []
    seen.clock.advance(0.1)
    seen.add()
    assert seen.slow == ["/default/f"]


def test_calls_without_a_deadline_are_never_slow(seen: Seen) -> None:
    for _ in range(10):
        seen.add(timeout=float("inf"))
        seen.clock.advance(100)
    assert seen.slow == []


def test_calls_that_wait_for_a_server_that_is_away_are_not_slow(seen: Seen) -> None:
    for _ in range(10):
        seen.add().is_excused = True
        seen.clock.advance(0.5)
    assert seen.slow == []


def test_calls_that_waited_for_a_server_that_was_away_do_not_tell_what_is_usual(seen: Seen) -> None:
    seen.serve(0.05, 5)
    call = seen.add()
    call.is_excused = True
    seen.clock.advance(0.9)
    call.end()
    assert seen.lookout.usual("/default/f") == pytest.approx(0.05)


def test_ended_samples_are_not_kept(seen: Seen) -> None:
    import gc
    import weakref

    call = seen.add()
    call.end()
    call.callbacks.clear()
    found = weakref.ref(call)
    del call
    gc.collect()
    assert found() is None


def test_the_functions_that_are_known_are_bounded(seen: Seen) -> None:
    for number in range(3000):
        seen.add(f"/default/f{number}").end()
    assert len(seen.lookout) <= 1024
