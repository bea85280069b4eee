"""Two connected endpoints against a model: hypothesis chooses what they do, and in which order."""

import time
import traceback
from random import Random

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from fuzz.engines import Outcome
from rap.wire.frames import END, MESSAGE
from tests.wire.conversation import Conversation

__all__ = ["Talking", "converse"]

_SIDES = st.integers(0, 1)
_SIZES = st.one_of(st.integers(0, 100), st.integers(0, 5_000), st.integers(0, 200_000))
_EXAMPLES = 20  # conversations between two looks at the clock
_STEPS = 100
_PHASES = (Phase.generate, Phase.shrink)
_TRACE = 4000  # characters of a finding that are shown


class Talking(RuleBasedStateMachine):
    """A conversation, step by step; at its end everything has arrived and all credit is back."""

    begun = 0  # conversations so far
    talk: Conversation

    @initialize(rng=st.randoms(use_true_random=False))
    def begin(self, rng: Random) -> None:
        """Connect both sides, with limits of their own."""
        Talking.begun += 1
        self.talk = Conversation(rng)

    @rule(size=_SIZES, flags=st.sampled_from([MESSAGE | END, MESSAGE, 0]), unary=st.booleans())
    def open(self, size: int, flags: int, unary: bool) -> None:
        """Open a stream."""
        self.talk.open(size, flags, unary)

    @rule(side=_SIDES, size=_SIZES, flags=st.sampled_from([MESSAGE | END, MESSAGE, END]))
    def send(self, side: int, size: int, flags: int) -> None:
        """Send a message, or say that there are no more."""
        self.talk.send(side, size, flags)

    @rule(side=_SIDES)
    def reset(self, side: int) -> None:
        """Give a stream up."""
        self.talk.reset(side)

    @rule(side=_SIDES, budget=st.integers(1, 100_000))
    def pump(self, side: int, budget: int) -> None:
        """Write some of what waits."""
        self.talk.pump(side, budget)

    @rule(side=_SIDES, held=st.booleans())
    def hold(self, side: int, held: bool) -> None:
        """Let the transport be full, or have room."""
        self.talk.hold(side, held)

    @rule(side=_SIDES, count=st.one_of(st.integers(1, 40), st.integers(1, 300_000)))
    def deliver(self, side: int, count: int) -> None:
        """Let some bytes arrive, wherever that cuts them."""
        self.talk.deliver(side, count)

    @rule(side=_SIDES)
    def take(self, side: int) -> None:
        """Let user code take a message."""
        self.talk.take(side)

    @invariant()
    def every_rule_is_kept(self) -> None:
        """Check both sides against the model."""
        if hasattr(self, "talk"):
            self.talk.check_rules()
            self.talk.credit_is_neither_made_nor_lost()
            self.talk.messages_arrive_once_and_in_order()

    def teardown(self) -> None:
        """Let everything arrive."""
        if hasattr(self, "talk"):
            self.talk.finish()


def converse(seconds: float) -> Outcome:
    """Talk for so long; a finding is the shortest conversation that breaks a rule."""
    chosen = settings(
        max_examples=_EXAMPLES,
        stateful_step_count=_STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        phases=_PHASES,
        suppress_health_check=list(HealthCheck),
    )
    before, stop = Talking.begun, time.monotonic() + seconds
    finding = ""
    while not finding and time.monotonic() < stop:
        try:
            run_state_machine_as_test(Talking, settings=chosen)
        except Exception as exc:
            finding = f"{exc!r}\n{traceback.format_exc()[-_TRACE:]}"
    return Outcome(Talking.begun - before, finding)
