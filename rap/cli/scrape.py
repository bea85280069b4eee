"""What the page of metrics of an instance tells of its calls, between two looks."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from rap.address import Address
from rap.observe.http import fetch

__all__ = ["Counted", "Rates", "read_page", "scrape"]

_TEXT = "text/plain; version=0.0.4"  # without exemplars
_SAMPLE = re.compile(r"(rap_server_handled_total|rap_server_handling_seconds_bucket)\{(.*)\} (\S+)")
_CODE = re.compile(r'(?:^|,)code="(\w+)"')
_BOUND = re.compile(r'(?:^|,)le="([^"]+)"')


class Rates(NamedTuple):
    """Calls of a stretch of time.

    Args:
        calls: That ended, a second.
        errors: Of these, that failed.
        p50: Seconds, from the bounds of a histogram; `None`: there was no call.
        p99: The same.
    """

    calls: float
    errors: float
    p50: float | None
    p99: float | None


class Counted(NamedTuple):
    """What a page has counted so far.

    Args:
        calls: That ended.
        errors: Of these, that failed.
        buckets: Upper bound in seconds to how many calls took no longer.
    """

    calls: float
    errors: float
    buckets: Mapping[float, float]

    def since(self, before: "Counted", seconds: float) -> Rates | None:
        """Return what happened since; `None` if the counts began anew."""
        if self.calls < before.calls or seconds <= 0:
            return None
        spent = {
            bound: count - before.buckets.get(bound, 0.0)
            for bound, count in sorted(self.buckets.items())
        }
        return Rates(
            (self.calls - before.calls) / seconds,
            (self.errors - before.errors) / seconds,
            _quantile(0.5, spent),
            _quantile(0.99, spent),
        )


async def scrape(host: str, port: int, timeout: float) -> Counted:
    """Ask a page.

    Raises:
        OSError: Nobody answers there, or not with metrics.
    """
    where = Address("tcp", host, port)
    try:
        good, text = await fetch(where, "/metrics", _TEXT, timeout)
    except TimeoutError:
        raise TimeoutError(f"no page of metrics answered at {where}") from None
    except (ValueError, IndexError) as exc:
        raise OSError(f"{where} answers with what is no page: {exc}") from exc
    if not good:
        raise OSError(f"{where} has no page of metrics")
    try:
        return read_page(text)
    except ValueError as exc:
        raise OSError(f"{where} has a page of metrics that cannot be read: {exc}") from exc


def read_page(text: str) -> Counted:
    """Return what a page tells of calls, for all functions and workers together.

    Raises:
        ValueError: A count is no number.
    """
    calls = errors = 0.0
    buckets: dict[float, float] = {}
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            continue
        name, labels, value = sample.groups()
        if name == "rap_server_handled_total":
            code = _CODE.search(labels)
            calls += float(value)
            errors += 0.0 if code is None or code[1] == "OK" else float(value)
        elif (bound := _BOUND.search(labels)) is not None:
            edge = float(bound[1])
            buckets[edge] = buckets.get(edge, 0.0) + float(value)
    return Counted(calls, errors, buckets)


def _quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile, taking calls for evenly spread between two bounds of a histogram."""
    total = max(buckets.values(), default=0.0)
    if not total:
        return None
    wanted = share * total
    for (low, below), (high, within) in pairwise([(0.0, 0.0), *buckets.items()]):
        if within >= wanted and within > below:
            if high == float("inf"):
                return low
            return low + (high - low) * (wanted - below) / (within - below)
    return None
