"""How `rap` starts its own tasks: in the same order, whatever task factory the loop has."""

import asyncio

__all__ = ["start_task"]

start_task = asyncio.Task
"""Return a task of the running loop that begins in the next turn; takes a coroutine and a `name`.

`asyncio.create_task` begins it at once if the loop has `asyncio.eager_task_factory`: before its
caller has stored it, and before the rest of a batch of frames is read. The task factory of the
loop is not asked.
"""
