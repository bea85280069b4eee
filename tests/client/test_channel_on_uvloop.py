"""The tests of channels once more, on both event loops."""

from tests.test_channel import *  # noqa: F403  # tests and fixtures, whatever they are

ON_BOTH_LOOPS = True
