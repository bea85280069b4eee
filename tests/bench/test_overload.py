"""What the overload benchmark makes of calls, and that it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.overload import Made, Proof, Times, summarize
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


def _proof(*cells: tuple[str, list[Made]]) -> list[str]:
    """Return what the proof says of cells of a capacity of ten calls a second."""
    proof = Proof()
    for kind, calls in cells:
        proof.add(kind, "2C, 1 client", summarize(calls, _TIMES, 0.5), 10.0, 0.5)
    return proof.lines()


def test_the_proof_names_the_worst_cell_of_each_aim() -> None:
    good = _calls(0.0, 7.0)
    bad = [*_calls(0.0, 3.0)[::2], *_calls(3.0, 7.0), Made(5.5, 0.5, EXPIRED)]
    lines = _proof(("blocking", good), ("waiting", bad), ("threads", good))
    assert len(lines) == 3
    assert lines[0].startswith("MISSED  goodput >= 0.9 C: at worst 0.5")
    assert "(waiting, 2C, 1 client)" in lines[0]
    assert lines[1] == (
        "reached p99 of the answered within the deadline: at worst 100 ms (blocking, 2C, 1 client)"
    )
    assert lines[2].startswith("MISSED  no bad call later than 2 s after the load fell")
    assert "2.50 s (waiting" in lines[2]


def test_a_chain_has_an_aim_of_its_own() -> None:
    calls = [each for i, each in enumerate(_calls(0.0, 3.0)) if i % 7] + _calls(3.0, 7.0)
    (goodput, *_) = _proof(("chain", calls))
    assert goodput.startswith("reached goodput of a chain >= 0.8 C: at worst 0.8")
    (goodput, *_) = _proof(("blocking", calls))
    assert goodput.startswith("MISSED ")


def test_the_proof_counts_polite_clients_and_bursts() -> None:
    proof = Proof()
    proof.add_polite("blocking", 1.0)
    proof.add_polite("waiting", 0.997)
    proof.add_burst("threads", 1000)
    assert proof.lines() == [
        "MISSED  a polite client keeps all calls: at worst 99.7% (waiting)",
        "reached a burst of 1,000 calls loses none: at worst 1,000 answered (threads)",
    ]


def test_the_benchmark_measures_servers_and_clients_of_its_own() -> None:
    command = [
        sys.executable,
        "-m",
        "bench.overload",
        "--quick",
        "--peers",
        "rap",
        "--kinds",
        "echo",
    ]
    short = ["--loads", "0.1", "--extras", "", "--over", "0.2", "--after", "0.2"]
    root = Path(__file__).parents[2]
    printed = subprocess.run(
        [*command, *short], cwd=root, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "rap, echo: C = " in printed
    assert "0.1C, 1 client" in printed
