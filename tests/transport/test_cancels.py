from rap.transport.cancels import Cancels


def test_a_thousand_at_once_are_allowed_and_one_more_is_not() -> None:
    cancels = Cancels(5.0)
    assert [cancels.too_many(5.0) for _ in range(1001)] == [False] * 1000 + [True]


def test_a_hundred_a_second_are_allowed_for_ever() -> None:
    cancels = Cancels(0.0)
    assert not any(cancels.too_many(n / 100.0) for n in range(100_000))


def test_what_was_not_used_does_not_pile_up() -> None:
    cancels = Cancels(0.0)
    assert not cancels.too_many(1e9)
    assert sum(cancels.too_many(1e9) for _ in range(1000)) == 1


def test_after_one_too_many_it_begins_anew() -> None:
    cancels = Cancels(0.0)
    assert sum(cancels.too_many(0.0) for _ in range(2002)) == 2


def test_who_has_used_up_half_cancels_much() -> None:
    cancels = Cancels(0.0)
    assert not any(cancels.too_many(0.0) or cancels.many for _ in range(500))
    cancels.too_many(0.0)
    assert cancels.many
    assert not cancels.too_many(5.0)
    assert not cancels.many
    assert sum(cancels.too_many(5.0) for _ in range(1000)) == 1
    assert cancels.many
    assert not cancels.too_many(500.0)
    assert cancels.many
