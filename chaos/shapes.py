"""The calls of the load: one class of call for each shape, each of which checks its answer."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from random import Random
from typing import Any, NamedTuple

from rap.client import Client

__all__ = ["DEADLINES", "SHAPES", "BegunError", "Calls", "Shape", "WrongAnswerError"]

DEADLINES = (1.0, 2.0, 3.0, 5.0)  # seconds

_LARGE = 65536  # bytes
_Rows = AsyncIterable[list[int]] | Iterable[list[int]]


class Shape(NamedTuple):
    """A kind of call.

    Args:
        name: What the report calls it.
        share: Its share of the load.
        is_idempotent: Whether its calls may not fail while a healthy replica exists.
    """

    name: str
    share: float
    is_idempotent: bool


SHAPES = (
    Shape("get", 0.50, True),
    Shape("put", 0.16, False),
    Shape("order", 0.10, True),
    Shape("items", 0.08, True),
    Shape("upload", 0.05, False),
    Shape("both", 0.04, False),
    Shape("channel", 0.04, False),
    Shape("session", 0.03, False),
    Shape("work", 0.0, False),  # only of the client that asks for too much
)


class WrongAnswerError(Exception):
    """An answer of another call, or items that are lost, doubled or out of order."""


class BegunError(Exception):
    """A generator failed after its first item, so that it could not be made again."""


class Calls:
    """Makes calls of every shape.

    Args:
        stock: Client of the service ``stock``.
        front: Client of the service ``front``.
        rng: Chooses sizes and pauses.
    """

    def __init__(self, stock: Client, front: Client, rng: Random) -> None:
        self._stock = stock
        self._rng = rng
        self._stubs = {deadline: _declare(stock, front, deadline) for deadline in DEADLINES}
        by_name: dict[str, Callable[[int, float], Awaitable[None]]] = {
            "get": self._get,
            "put": self._put,
            "order": self._order,
            "items": self._items,
            "upload": self._upload,
            "both": self._both,
            "channel": self._channel,
            "session": self._session,
            "work": self._work,
        }
        self.by_shape = [by_name[shape.name] for shape in SHAPES]
        """For each of `SHAPES`, what makes a call, given its id and its deadline."""

    async def _get(self, number: int, deadline: float) -> None:
        chance = self._rng.random()
        size = _LARGE if chance < 0.02 else 100
        pause = self._rng.uniform(0.0, 0.05) if chance > 0.9 else 0.0
        _check_id(number, await self._stubs[deadline].get(number, size, pause), size)

    async def _put(self, number: int, deadline: float) -> None:
        _check((await self._stubs[deadline].put(number))[0], number)

    async def _order(self, number: int, deadline: float) -> None:
        _check_id(number, await self._stubs[deadline].order(number), 0)

    async def _items(self, number: int, deadline: float) -> None:
        count = self._rng.randrange(1, 12)
        pause = 0.005 if self._rng.random() < 0.2 else 0.0
        expected = 0
        try:
            async for item in self._stubs[deadline].items(number, count, pause):
                _check(item, [number, expected])
                expected += 1
        except Exception as error:
            if expected:
                raise BegunError(f"after {expected} items") from error
            raise
        _check(expected, count)

    async def _upload(self, number: int, deadline: float) -> None:
        count = self._rng.randrange(1, 12)
        found = await self._stubs[deadline].upload(number, _rows(number, count))
        _check(found, [number, count])

    async def _both(self, number: int, deadline: float) -> None:
        count = self._rng.randrange(1, 8)
        expected = 0
        async for row in self._stubs[deadline].both(number, _rows(number, count)):
            _check(row, [number, expected])
            expected += 1
        _check(expected, count)

    async def _channel(self, number: int, deadline: float) -> None:
        async with self._stock.channel("talk", number, timeout=deadline) as channel:
            for i in range(self._rng.randrange(1, 6)):
                await channel.write([number, i])
                _check(await channel.read_body(), [number, i])

    async def _session(self, number: int, deadline: float) -> None:
        stubs = self._stubs[deadline]
        async with self._stock.session:
            _, incarnation = await stubs.put(number)
            for _ in range(2):
                _check(await stubs.get(number, 0, 0.0), [number, b"", incarnation])

    async def _work(self, number: int, deadline: float) -> None:
        _check(await self._stubs[deadline].work(number), number)


class _Stubs(NamedTuple):
    get: Any
    put: Any
    order: Any
    items: Any
    upload: Any
    both: Any
    work: Any


def _declare(stock: Client, front: Client, deadline: float) -> _Stubs:
    """Return the functions of both services, with one timeout for all."""

    @stock.register(idempotent=True, timeout=deadline)
    async def get(number: int, size: int, pause: float) -> list[Any]: ...  # type: ignore[empty-body]

    @stock.register(timeout=deadline)
    async def put(number: int) -> list[int]: ...  # type: ignore[empty-body]

    @front.register(idempotent=True, timeout=deadline)
    async def order(number: int) -> list[Any]: ...  # type: ignore[empty-body]

    @stock.register(idempotent=True, timeout=deadline)
    async def items(number: int, count: int, pause: float) -> AsyncIterator[list[int]]:
        yield []

    @stock.register(timeout=deadline)
    async def upload(number: int, rows: _Rows) -> list[int]: ...  # type: ignore[empty-body]

    @stock.register(timeout=deadline)
    async def both(number: int, rows: _Rows) -> AsyncIterator[list[int]]:
        yield []

    @stock.register(idempotent=True, timeout=deadline)
    async def work(number: int) -> int: ...  # type: ignore[empty-body]

    return _Stubs(get, put, order, items, upload, both, work)


def _rows(number: int, count: int) -> Iterator[list[int]]:
    return ([number, i] for i in range(count))


def _check_id(number: int, answer: list[Any], size: int) -> None:
    _check(answer[0], number)
    _check(len(answer[1]), size)


def _check(found: object, expected: object) -> None:
    if found != expected:
        raise WrongAnswerError(f"got {found!r} instead of {expected!r}")
