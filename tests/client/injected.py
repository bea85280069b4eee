"""Functions that tests replace by their stubs."""

from collections.abc import AsyncIterator

__all__ = ["count", "double", "twice"]


async def double(n: int) -> int:
    return 2 * n


def twice(n: int) -> int:
    return 2 * n


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def use(n: int) -> int:
    return await double(n)
