"""What stands in for a worker on a page of workers."""

from dataclasses import dataclass

from rap.address import Address

__all__ = ["Standing"]


@dataclass
class Standing:
    """A worker that is in no process."""

    number: int
    page: Address | None = None
    starts: int = 1
