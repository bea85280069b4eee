"""Whose job is next when all threads are busy."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rap.turns import Turns


def filled(**jobs: int) -> Turns[str]:
    turns: Turns[str] = Turns()
    for client, number in jobs.items():
        for index in range(number):
            turns.add((client,), f"{client}{index}")
    return turns


def test_the_jobs_of_one_client_begin_in_their_order() -> None:
    turns = filled(a=3)
    assert [turns.next() for _ in range(4)] == ["a0", "a1", "a2", None]
    assert turns.waiting == 0


def test_clients_have_equal_numbers_of_running_jobs() -> None:
    turns = filled(a=9, b=9, c=1)
    begun = Counter(str(turns.next())[0] for _ in range(7))
    assert begun == {"a": 3, "b": 3, "c": 1}


def test_jobs_that_run_without_waiting_count() -> None:
    turns: Turns[str] = Turns()
    for _ in range(3):
        turns.begin(("a",))
    turns.begin(("b",))
    turns.add(("a",), "a")
    turns.add(("b",), "b")
    assert [turns.next(), turns.next()] == ["b", "a"]


def test_with_one_thread_clients_have_equal_times() -> None:
    turns, used = filled(long=100, short=1000), Counter[str]()
    for _ in range(500):
        client = str(turns.next()).rstrip("0123456789")
        seconds = 5.0 if client == "long" else 0.05
        turns.end((client,), seconds)
        used[client] += round(seconds * 100)
    assert abs(used["long"] - used["short"]) <= 500


def test_a_client_that_comes_late_has_no_more_than_its_share() -> None:
    turns = filled(a=100)
    for _ in range(10):
        turns.next()
        turns.end(("a",), 1.0)
    for index in range(100):
        turns.add(("b",), f"b{index}")
    begun = Counter[str]()
    for _ in range(20):
        client = str(turns.next())[0]
        turns.end((client,), 1.0)
        begun[client] += 1
    assert abs(begun["a"] - begun["b"]) <= 2


def test_the_jobs_before_a_client_are_those_of_its_turns() -> None:
    turns = filled(a=200, b=3)
    assert turns.ahead_of(("a",)) == 203
    assert turns.ahead_of(("b",)) == 3 + 4
    assert turns.ahead_of(("c",)) == 2
    assert Turns[str]().ahead_of(("c",)) == 0


def test_a_job_that_is_removed_does_not_begin() -> None:
    turns = filled(a=2, b=1)
    assert turns.remove(("a",), "a0")
    assert not turns.remove(("a",), "a0")
    assert turns.remove(("b",), "b0")
    assert [turns.next(), turns.next()] == ["a1", None]
    assert not turns.remove(("a",), "a1")


def test_more_connections_do_not_give_an_address_more_turns() -> None:
    turns: Turns[str] = Turns(levels=2)
    for number in range(100):
        turns.add(("greedy", number), f"greedy {number}")
    for number in range(4):
        turns.add(("modest", 0), f"modest {number}")
    begun = [str(turns.next()).split()[0] for _ in range(8)]
    assert Counter(begun) == {"greedy": 4, "modest": 4}


def test_the_connections_of_one_address_take_turns() -> None:
    turns: Turns[str] = Turns(levels=2)
    for number in range(100):
        turns.add(("proxy", "greedy"), f"greedy {number}")
    turns.add(("proxy", "modest"), "modest")
    assert turns.ahead_of(("proxy", "modest")) == 3
    assert turns.ahead_of(("proxy", "other")) == 2
    assert turns.ahead_of(("elsewhere", "other")) == 1
    assert {turns.next(), turns.next()} == {"greedy 0", "modest"}
    turns.end(("proxy", "greedy"), 1.0)
    turns.end(("proxy", "modest"), 1.0)
    assert turns.remove(("proxy", "greedy"), "greedy 1")
    assert turns.next() == "greedy 2"


CLIENTS = st.tuples(st.integers(0, 2), st.integers(0, 2))


@given(st.lists(st.tuples(st.sampled_from(["add", "next", "end", "remove"]), CLIENTS)))
def test_every_job_begins_once_whatever_happens(steps: list[tuple[str, tuple[int, int]]]) -> None:
    turns: Turns[int] = Turns(levels=2)
    waiting: dict[int, tuple[int, int]] = {}
    running: dict[int, tuple[int, int]] = {}
    for job, (what, client) in enumerate(steps):
        if what == "add":
            turns.add(client, job)
            waiting[job] = client
        elif what == "next":
            found = turns.next()
            assert (found is None) == (not waiting)
            if found is not None:
                running[found] = waiting.pop(found)
        elif what == "end" and running:
            turns.end(running.pop(next(iter(running))), 0.1 * client[1])
        elif what == "remove" and waiting:
            gone = next(reversed(waiting))
            assert turns.remove(waiting.pop(gone), gone)
        assert turns.waiting == len(waiting)
        assert 0 <= turns.ahead_of(client) <= len(waiting)
    assert sorted(turns.clear()) == sorted(waiting)
    assert turns.next() is None
