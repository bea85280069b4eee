"""What the guard makes of counted instructions."""

import pytest

from bench.guard import compare, table
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


@pytest.mark.parametrize("mode", MODES)
async def test_the_program_runs_in_every_mode(mode: str) -> None:
    await main(mode, 128)
