"""The threads in which `def` handlers run, so that they may block."""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

__all__ = ["Threads"]


class Threads:
    """A pool of threads that keeps the context of the call.

    Args:
        count: Threads at the most; `None` for what Python takes, the cores plus 4, at most 32.
    """

    def __init__(self, count: int | None) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="rap-handler")

    async def run(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        abandoned: Callable[[], None] | None = None,
    ) -> Any:
        """Return what `func` returns; if this is cancelled, the function runs on alone.

        Args:
            func: What to run.
            args: Its arguments.
            kwargs: Its keyword arguments.
            abandoned: Run in the thread after a function that nobody waits for any more.
        """
        call = functools.partial(copy_context().run, _call, func, args, kwargs or {})
        future: Future[Any] = self._executor.submit(call)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if abandoned is not None:
                future.add_done_callback(lambda _: abandoned())
            raise

    def close(self) -> None:
        """Take no more; what runs goes on, what waits is dropped."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return func(*args, **kwargs)
    except StopIteration as exc:  # which no future takes
        raise RuntimeError("the function raised StopIteration") from exc
