"""Reads call counters from the metrics page of an instance, and computes rates from them."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from rap.address import Address
from rap.observe.http import fetch

__all__ = ["CallCounters", "CallRates", "parse_page", "scrape"]

_TEXT = "text/plain; version=0.0.4"  # without exemplars
_SAMPLE = re.compile(r"(rap_server_handled_total|rap_server_handling_seconds_bucket)\{(.*)\} (\S+)")
_CODE = re.compile(r'(?:^|,)code="(\w+)"')
_BOUND = re.compile(r'(?:^|,)le="([^"]+)"')


class CallRates(NamedTuple):
    """The calls of an interval.

    Args:
        calls: Ended calls per second.
        errors: Failed calls per second.
        p50: Median duration in seconds, interpolated in a histogram; `None` without calls.
        p99: 99th percentile, likewise.
    """

    calls: float
    errors: float
    p50: float | None
    p99: float | None


class CallCounters(NamedTuple):
    """The counters of a metrics page.

    Args:
        calls: Ended calls.
        errors: Failed calls.
        buckets: Mapping of upper bound in seconds to the number of calls that took no longer.
    """

    calls: float
    errors: float
    buckets: Mapping[float, float]

    def since(self, before: "CallCounters", seconds: float) -> CallRates | None:
        """Return the rates since an earlier page; `None` if the counters were reset."""
        if self.calls < before.calls or seconds <= 0:
            return None
        spent = {
            bound: count - before.buckets.get(bound, 0.0)
            for bound, count in sorted(self.buckets.items())
        }
        return CallRates(
            (self.calls - before.calls) / seconds,
            (self.errors - before.errors) / seconds,
            _quantile(0.5, spent),
            _quantile(0.99, spent),
        )


async def scrape(host: str, port: int, timeout: float) -> CallCounters:
    """Fetch a metrics page and return its counters.

    Raises:
        OSError: No server answers there, or its answer is not a metrics page.
    """
    where = Address("tcp", host, port)
    try:
        good, text = await fetch(where, "/metrics", _TEXT, timeout)
    except TimeoutError:
        raise TimeoutError(f"no metrics page answered at {where}") from None
    except (ValueError, IndexError) as exc:
        raise OSError(f"{where} does not answer with a page: {exc}") from exc
    if not good:
        raise OSError(f"{where} has no metrics page")
    try:
        return parse_page(text)
    except ValueError as exc:
        raise OSError(f"{where} has a metrics page that cannot be read: {exc}") from exc


def parse_page(text: str) -> CallCounters:
    """Return the counters of a page, summed over all functions and workers.

    Raises:
        ValueError: A counter is not a number.
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
    return CallCounters(calls, errors, buckets)


def _quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile, as if calls were spread evenly between two bounds of the histogram."""
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
