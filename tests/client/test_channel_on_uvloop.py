"""The tests of channels once more, on both event loops."""

from tests.test_channel import *  # noqa: F403  # tests and fixtures, whatever they are
from tests.test_channel_ends import *  # noqa: F403

ON_BOTH_LOOPS = True
