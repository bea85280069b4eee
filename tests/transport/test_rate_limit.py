from rap.transport.rate_limit import TokenBucket


def test_a_burst_of_a_thousand_is_allowed_and_one_more_is_not() -> None:
    bucket = TokenBucket(100, 5.0)
    assert [bucket.allow(5.0) for _ in range(1001)] == [True] * 1000 + [False]


def test_a_hundred_per_second_are_allowed_without_end() -> None:
    bucket = TokenBucket(100, 0.0)
    assert all(bucket.allow(n / 100.0) for n in range(100_000))


def test_unused_tokens_do_not_pile_up_beyond_the_size() -> None:
    bucket = TokenBucket(100, 0.0)
    assert bucket.allow(1e9)
    assert sum(bucket.allow(1e9) for _ in range(1000)) == 999


def test_a_refused_request_takes_no_token() -> None:
    bucket = TokenBucket(100, 0.0)
    assert sum(bucket.allow(0.0) for _ in range(2000)) == 1000
    assert [bucket.allow(0.02) for _ in range(3)] == [True, True, False]


def test_a_reset_fills_the_bucket() -> None:
    bucket = TokenBucket(100, 0.0)
    assert sum(bucket.allow(0.0) for _ in range(1001)) == 1000
    bucket.reset()
    assert sum(bucket.allow(0.0) for _ in range(1001)) == 1000


def test_it_is_low_while_less_than_half_is_left() -> None:
    bucket = TokenBucket(100, 0.0)
    assert all(bucket.allow(0.0) and not bucket.is_low for _ in range(500))
    bucket.allow(0.0)
    assert bucket.is_low
    assert bucket.allow(5.0)
    assert not bucket.is_low
