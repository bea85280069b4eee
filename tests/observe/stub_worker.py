"""A worker without a process, for tests of the metrics of workers."""

from dataclasses import dataclass

from rap.address import Address

__all__ = ["StubWorker"]


@dataclass
class StubWorker:
    """A worker without a process."""

    number: int
    metrics_address: Address | None = None
    starts: int = 1
