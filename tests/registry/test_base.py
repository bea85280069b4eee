"""What discovery is made of: the difference of two snapshots."""

from rap.registry import Change, State, diff
from tests.registry.sample import make_endpoint


def test_equal_snapshots_differ_in_nothing() -> None:
    one = make_endpoint()
    change = diff({one.id: one}, {one.id: make_endpoint()})
    assert change == Change()
    assert not change


def test_a_change_names_who_came_changed_and_went() -> None:
    stays, changes, goes, comes = (make_endpoint(port) for port in range(1, 5))
    changed = make_endpoint(2, state=State.DRAINING)
    old = {it.id: it for it in (stays, changes, goes)}
    new = {it.id: it for it in (stays, changed, comes)}
    change = diff(old, new)
    assert change == Change(added=(comes,), updated=(changed,), removed=(goes,))
    assert change


def test_a_new_incarnation_is_an_update() -> None:
    old, new = make_endpoint(), make_endpoint(incarnation="second")
    assert diff({old.id: old}, {new.id: new}).updated == (new,)
