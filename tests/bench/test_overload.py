"""What the overload benchmark makes of calls, and that it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.overload import Made, Times, summarize
from bench.overload_ends import EXPIRED, OK, REFUSED

_TIMES = Times(before=1.0, over=3.0, after=4.0)


def _calls(begin: float, end: float, kind: int = OK, seconds: float = 0.1) -> list[Made]:
    """Return ten calls a second."""
    return [Made(begin + i / 10, seconds, kind) for i in range(round((end - begin) * 10))]


def test_goodput_counts_the_answers_within_the_deadline_after_the_first_second() -> None:
    calls = _calls(0.0, 3.0) + _calls(1.0, 3.0, seconds=0.6) + _calls(1.0, 3.0, REFUSED)
    found = summarize(calls, _TIMES, deadline=0.5)
    assert found.goodput == pytest.approx(10.0, rel=0.06)
    assert found.answered == pytest.approx(1 / 3)
    assert found.refused == pytest.approx(1 / 3)
    assert found.failed == pytest.approx(1 / 3)


def test_recovery_is_the_time_until_the_last_bad_call_after_the_load_fell() -> None:
    calls = [*_calls(0.0, 7.0), Made(4.5, 0.5, EXPIRED)]
    found = summarize(calls, _TIMES, deadline=0.5)
    assert found.recovery == pytest.approx(1.5)
    assert found.again == pytest.approx(10.0, rel=0.1)


def test_a_bad_call_in_the_last_second_means_no_recovery() -> None:
    calls = [*_calls(0.0, 7.0), Made(6.9, 0.5, EXPIRED)]
    assert summarize(calls, _TIMES, deadline=0.5).recovery is None


def test_a_load_without_bad_calls_recovers_at_once() -> None:
    found = summarize(_calls(0.0, 7.0), _TIMES, deadline=0.5)
    assert found.recovery == 0.0
    assert found.p50 == pytest.approx(100.0)


def test_the_benchmark_measures_servers_and_clients_of_its_own() -> None:
    command = [sys.executable, "-m", "bench.overload", "--quick", "--kinds", "echo"]
    short = ["--loads", "0.1", "--extras", "", "--over", "0.2", "--after", "0.2"]
    root = Path(__file__).parents[2]
    printed = subprocess.run(
        [*command, *short], cwd=root, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "rap, echo: C = " in printed
    assert "0.1C, 1 client" in printed
