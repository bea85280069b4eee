"""The server of the model: one call has one text, the model gets many at once."""

import asyncio
import os
from collections.abc import Callable, Sequence

from rap import Server

from .model import predict

server = Server("localhost:0", service="inference", registry=f"file://{os.getcwd()}/registry")


class Batches:
    """Gathers the arguments of calls that run at the same time, and computes them together.

    Args:
        compute: Gets a list of items and returns a result for each. It runs in a thread.
        max_size: Most items of a batch.
        max_wait: Seconds that the first item of a batch waits for others.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[str]], list[float]],
        max_size: int = 32,
        max_wait: float = 0.005,
    ) -> None:
        self.sizes: list[int] = []
        self._compute = compute
        self._max_size = max_size
        self._max_wait = max_wait
        self._waiting: list[tuple[str, asyncio.Future[float]]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def add(self, item: str) -> float:
        """Return the result of an item. If the caller is cancelled, the item is left out."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[float] = loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) == self._max_size:
            self._start()
        elif len(self._waiting) == 1:
            self._timer = loop.call_later(self._max_wait, self._start)
        return await future

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        batch = [(item, future) for item, future in self._waiting if not future.done()]
        self._waiting = []
        task = asyncio.ensure_future(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[str, asyncio.Future[float]]]) -> None:
        if not batch:
            return
        self.sizes.append(len(batch))
        try:
            results = await asyncio.to_thread(self._compute, [item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as exc:  # the error of the model is that of each call
            for _, future in batch:
                if not future.done():
                    future.set_exception(exc)


batches = Batches(predict)


@server.register(idempotent=True)
async def friendly(text: str) -> float:
    """Return how likely it is that a text is friendly, 0 to 1."""
    return await batches.add(text)
