"""What the command that prints traces thinks of right ones and of wrong ones."""

import dataclasses
from collections.abc import Sequence

from integration.traces import STEPS, Trace, look
from integration.tree import broken, tree
from tests.collectors import Collected

ASKING = 99


def line_of_descent() -> list[Collected]:
    """Return the spans of the steps, the ids 1, 2, 3 and 4."""
    return [
        Collected(service, "i", name, kind, 7, number, number - 1 or ASKING, number, 0.002, {})
        for number, (service, kind, name) in enumerate(STEPS, 1)
    ]


def with_attempts(spans: Sequence[Collected], codes: Sequence[str | None]) -> list[Collected]:
    events = [
        ("rap.attempt", {"rap.attempt": number, "peer.address": f"there:{number}"})
        for number in range(1, len(codes) + 1)
    ]
    for (_, fields), code in zip(events, codes, strict=True):
        if code:
            fields |= {"rap.retried.code": code, "rap.retried.error": "lost"}
    return [dataclasses.replace(s, events=events) if s.span_id == 3 else s for s in spans]


def test_a_line_of_descent_is_right() -> None:
    assert broken(line_of_descent(), ASKING, STEPS) == []


def test_a_wrong_parent_a_lack_and_a_surplus_are_found() -> None:
    spans = line_of_descent()
    wrong = dataclasses.replace(spans[3], parent_id=1)
    (found,) = broken([*spans[:3], wrong], ASKING, STEPS)
    assert "the parent of ('calc', 'server', 'default/add')" in found
    assert "there is no span of ('calc'" in broken(spans[:3], ASKING, STEPS)[0]
    assert broken([*spans, spans[0]], ASKING, STEPS) == ["there are 5 spans, not 4"]
    surplus = dataclasses.replace(spans[0], service="other")
    assert "nobody expected ('other'" in broken([*spans, surplus], ASKING, STEPS)[-1]
    assert "the parent of ('gateway'" in broken(spans, 1, STEPS)[0]


def test_a_trace_without_the_failed_attempt_is_wrong() -> None:
    spans = line_of_descent()
    assert look(Trace(7, ASKING, with_attempts(spans, [None, "UNAVAILABLE"]))) == []
    assert "attempts" in look(Trace(7, ASKING, with_attempts(spans, [None])))[0]


def test_a_tree_shows_children_below_their_parent_in_the_order_of_time() -> None:
    spans = with_attempts(line_of_descent(), [None, "UNAVAILABLE"])
    later = dataclasses.replace(spans[1], span_id=5, start=9.0, name="later")
    assert list(tree([later, *reversed(spans)], ASKING)) == [
        "└─ gateway i: default/total, client, 2.0 ms",
        "   ├─ orders i: default/total, server, 2.0 ms",
        "   │  └─ orders i: default/add, client, 2.0 ms",
        "   │     · attempt 1 to there:1",
        "   │     · attempt 2 to there:2, after UNAVAILABLE: lost",
        "   │     └─ calc i: default/add, server, 2.0 ms",
        "   └─ orders i: later, server, 2.0 ms",
    ]
