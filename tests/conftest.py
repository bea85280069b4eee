"""What all tests share: a clock, and property tests that are the same every time.

`pytest --hypothesis-profile=explore` looks at many more examples, other ones each time.
"""

import pytest
from hypothesis import settings

from tests.fake_clock import FakeClock

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
