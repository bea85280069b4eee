"""What an input costs is measured at each entry point, and too much is a finding."""

import random

import pytest

from fuzz.costs import measure, memory_of, microseconds_of
from fuzz.entries import ENTRIES, Entry
from fuzz.mutate import Mutator


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_point_takes_its_seeds_and_what_becomes_of_them(name: str) -> None:
    entry = ENTRIES[name]
    function, close = entry.make()
    mutator = Mutator(entry.seeds, random.Random(3))
    accepted = 0
    for data in (*entry.seeds, *(mutator.next() for _ in range(20))):
        try:
            function(data)
            accepted += 1
        except Exception:
            pass
    close()
    assert accepted, "an entry point that refuses everything shows nothing"


@pytest.mark.parametrize("name", ENTRIES)
def test_no_seed_takes_more_memory_than_its_bytes_allow(name: str) -> None:
    entry = ENTRIES[name]
    function, close = entry.make()
    for data in entry.seeds:
        # The first time loads modules, and a thread of another test may allocate at any time.
        assert min(memory_of(function, data) for _ in range(3)) <= entry.memory
    close()


def test_too_much_memory_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(lambda: (lambda data: bytes(1 << 20), lambda: None), (b"x" * 2048,), most=1e9)
    monkeypatch.setattr("fuzz.costs.ENTRIES", {"bytes": entry})
    costs = measure("bytes", 0.0)
    assert costs.executions == 1
    assert costs.finding == "512 bytes of memory per byte, more than 150"
    assert costs.largest == b"x" * 2048


def test_too_much_time_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def slow(data: bytes) -> None:
        nonlocal now
        now += len(data) * 2e-6
        raise ValueError("refused")

    monkeypatch.setattr("fuzz.costs.time.thread_time", lambda: now)
    assert microseconds_of(slow, b"x" * 4096) == pytest.approx(2.0)
    entry = Entry(lambda: (slow, lambda: None), (b"x" * 2048, b"y"))
    monkeypatch.setattr("fuzz.costs.ENTRIES", {"slow": entry})
    assert measure("slow", 0.0).finding == "2.00 us per byte, more than 1"
