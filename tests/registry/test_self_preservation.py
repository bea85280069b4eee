import pytest

from rap.registry import State
from rap.registry.self_preservation import DEAD_AFTER, as_seen, as_snapshot, to_evict
from tests.registry.sample import make_endpoint


@pytest.mark.parametrize(("silent", "total"), [(3, 3), (1, 4), (1, 6), (2, 14), (15, 100)])
def test_few_silent_instances_are_removed(silent: int, total: int) -> None:
    expired = {str(i): 1.0 for i in range(silent)}
    assert to_evict(expired, total) == list(expired)


@pytest.mark.parametrize(("silent", "total"), [(4, 4), (2, 4), (2, 13), (16, 100)])
def test_many_silent_instances_are_kept(silent: int, total: int) -> None:
    assert to_evict({str(i): 1.0 for i in range(silent)}, total) == []


def test_of_many_those_silent_for_long_are_removed() -> None:
    expired = {"a": DEAD_AFTER, "b": DEAD_AFTER - 1, "c": 1.0}
    assert to_evict(expired, 4) == ["a"]


def test_an_instance_that_is_dead_is_seen_only_if_no_lease_is_valid() -> None:
    old, young, live = (make_endpoint(port) for port in (1, 2, 3))
    dead = [(old, -DEAD_AFTER), (young, 1 - DEAD_AFTER)]
    assert as_snapshot([*dead, (live, 0.1)]).keys() == {young.id, live.id}
    assert as_snapshot([*dead, (live, 0.0)]).keys() == {old.id, young.id, live.id}


def test_only_an_instance_that_is_up_becomes_suspect() -> None:
    assert as_seen(make_endpoint(), 0.0).state is State.SUSPECT
    assert as_seen(make_endpoint(), 0.1).state is State.UP
    assert as_seen(make_endpoint(state=State.DRAINING), -1.0).state is State.DRAINING
