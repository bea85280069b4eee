"""What the guard makes of counted instructions."""

import pytest

from bench.guard import compare, dear, table
from bench.guard_program import MODES, main


def test_five_per_cent_are_allowed_and_more_is_told() -> None:
    baseline = {"unary": 1000, "stream": 1000, "channel": 1000}
    worse = compare({"unary": 1050, "stream": 1051, "channel": 500}, baseline)
    assert worse == ["stream: 1,051 instructions, +5.1% of 1,000"]


def test_a_new_mode_is_compared_with_nothing() -> None:
    assert compare({"unary": 1000}, {}) == []


def test_the_table_tells_what_a_mode_costs_beside_plain_calls() -> None:
    lines = table({"unary": 1000, "unary, in a session": 1100}, {"unary": 800}).splitlines()
    assert lines[1].split() == ["unary", "1,000", "800", "+25.0%"]
    assert lines[2].split()[-2:] == ["1,100", "+10.0%"]


def test_two_per_cent_are_allowed_to_tracing_that_does_not_sample() -> None:
    counts = {"unary": 1000, "unary, A, not sampled": 1020, "unary, A, sampled": 9000}
    assert dear(counts) == []
    assert dear({**counts, "unary, B, not sampled": 1021}) == [
        "unary, B, not sampled: +21 instructions, +2.1% of a plain call"
    ]
    assert dear({"unary, B, not sampled": 1021}) == []  # nothing to compare with


# A tracer of jaeger-client looks for the address of its machine, and leaves that to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
@pytest.mark.parametrize("mode", MODES)
async def test_the_program_runs_in_every_mode(mode: str) -> None:
    await main(mode, 128)
