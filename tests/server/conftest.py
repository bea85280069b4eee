"""Every test here leaves no task and no exception behind; some modules run on two event loops."""

from tests.two_loops import nothing_goes_unnoticed, pytest_asyncio_loop_factories

__all__ = ["nothing_goes_unnoticed", "pytest_asyncio_loop_factories"]
