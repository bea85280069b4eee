"""How `rap` starts its own tasks: in the same order, whatever task factory the loop has."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["start_task"]

T = TypeVar("T")


def start_task(running: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
    """Return a task that begins in the next turn of the running loop.

    `asyncio.create_task` begins it at once if the loop has `asyncio.eager_task_factory`: before its
    caller has stored it, and before the rest of a batch of frames is read. The task factory of the
    loop is not asked.
    """
    return asyncio.Task(running, loop=asyncio.get_running_loop(), name=name)
