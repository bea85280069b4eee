from rap.transport.rate_limit import Allowance


def test_a_thousand_at_once_are_allowed_and_one_more_is_not() -> None:
    allowance = Allowance(100, 5.0)
    assert [allowance.exceeds(5.0) for _ in range(1001)] == [False] * 1000 + [True]


def test_a_hundred_a_second_are_allowed_for_ever() -> None:
    allowance = Allowance(100, 0.0)
    assert not any(allowance.exceeds(n / 100.0) for n in range(100_000))


def test_what_was_not_used_does_not_pile_up() -> None:
    allowance = Allowance(100, 0.0)
    assert not allowance.exceeds(1e9)
    assert sum(allowance.exceeds(1e9) for _ in range(1000)) == 1


def test_what_is_too_much_does_not_count_and_stays_too_much() -> None:
    allowance = Allowance(100, 0.0)
    assert sum(allowance.exceeds(0.0) for _ in range(2000)) == 1000
    assert [allowance.exceeds(0.02) for _ in range(3)] == [False, False, True]


def test_renewed_it_allows_as_many_again() -> None:
    allowance = Allowance(100, 0.0)
    assert sum(allowance.exceeds(0.0) for _ in range(1001)) == 1
    allowance.renew()
    assert sum(allowance.exceeds(0.0) for _ in range(1001)) == 1


def test_who_has_used_up_half_is_low() -> None:
    allowance = Allowance(100, 0.0)
    assert not any(allowance.exceeds(0.0) or allowance.is_low for _ in range(500))
    allowance.exceeds(0.0)
    assert allowance.is_low
    assert not allowance.exceeds(5.0)
    assert not allowance.is_low


def test_that_it_was_exceeded_is_not_forgotten() -> None:
    allowance = Allowance(1, 0.0)
    assert not any(allowance.exceeds(0.0) or allowance.exceeded for _ in range(10))
    assert allowance.exceeds(0.0)
    allowance.renew()
    assert not allowance.exceeds(500.0)
    assert allowance.exceeded
