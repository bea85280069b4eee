"""Every test of a server must leave no task and no exception behind."""

from tests.event_loops import nothing_goes_unnoticed

__all__ = ["nothing_goes_unnoticed"]
