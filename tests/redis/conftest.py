"""The clock of these tests."""

import pytest

from tests.registry.fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
