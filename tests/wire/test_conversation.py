"""Two endpoints talk at random: nothing is lost, doubled, reordered, or sent without credit."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from fuzz.conversation import Talking
from tests.wire.conversation import Conversation

ROUNDS = 400


@pytest.mark.parametrize("seed", range(40))
def test_a_random_conversation_keeps_every_rule(seed: int) -> None:
    talk = Conversation(Random(seed))
    for _ in range(ROUNDS):
        talk.step()
        talk.check_rules()
        talk.credit_is_neither_made_nor_lost()
        talk.messages_arrive_once_and_in_order()
    talk.finish()


def test_every_rule_is_kept_in_conversations_that_hypothesis_finds() -> None:
    chosen = settings(max_examples=20, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(Talking, settings=chosen)
