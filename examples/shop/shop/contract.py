"""What the services of the shop offer. Servers implement it, and clients call it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from rap import CallError, Code, idempotent


@dataclass
class Item:
    sku: str
    name: str
    cents: int
    left: int


@dataclass
class Order:
    key: str
    sku: str
    count: int
    cents: int


@dataclass
class Event:
    number: int
    text: str


class SoldOut(CallError):
    """Fewer items are left than were ordered."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, name: str, left: int) -> None:
        super().__init__(f"only {left} of {name!r} are left")
        self.name = name
        self.left = left


class Catalog(Protocol):
    @idempotent
    async def item(self, sku: str) -> Item:
        """Return an item."""
        ...

    @idempotent
    async def reserve(self, sku: str, count: int, key: str) -> Item:
        """Take items off the shelf, once for each key."""
        ...

    async def restock(self, items: AsyncIterator[Item]) -> int:
        """Put items on the shelf. Return how many there were."""
        ...


class Orders(Protocol):
    @idempotent
    async def place(self, sku: str, count: int, key: str) -> Order:
        """Order items. The same key means the same order."""
        ...

    @idempotent
    async def ship(self, key: str) -> None:
        """Send an order to its buyer."""
        ...

    @idempotent
    def events(self, key: str, after: int = 0) -> AsyncIterator[Event]:
        """Yield the events of an order after a number, until it is shipped."""
        ...
