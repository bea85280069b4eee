"""Counts of calls, as plain numbers."""

import sys
import threading
from collections.abc import Iterator
from itertools import accumulate, chain, repeat

import pytest

from rap.call import Call, Side, StreamType
from rap.errors import CallError, Code, NotFound, Unimplemented
from rap.processor.metrics.counts import MAX_METHODS, SECONDS, UNKNOWN_METHOD, CountedCall, Counts

METHOD = "/default/add"


def call_of(
    method: str = METHOD, side: Side = Side.SERVER, stream_type: StreamType = StreamType.UNARY
) -> Call:
    return Call(method, stream_type, side, {})


@pytest.fixture
def _fast_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_fast_switches")
def test_threads_that_count_at_once_lose_nothing() -> None:
    counts, number = Counts(Side.SERVER), 5000

    def work() -> None:
        call = call_of()
        for _ in range(number):
            with CountedCall(counts, call):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (series,) = counts
    assert series.started == series.ended[Code.OK] == sum(series.buckets) == 4 * number


@pytest.mark.parametrize("place", range(len(SECONDS) + 1))
def test_a_call_falls_into_the_first_bucket_that_is_not_below_it(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = SECONDS[place] if place < len(SECONDS) else 10.1
    times = chain.from_iterable(repeat((0.0, took)))
    monkeypatch.setattr("rap.processor.metrics.counts._now", lambda: next(times))
    counts = Counts(Side.SERVER)
    with CountedCall(counts, call_of()):
        pass
    (series,) = counts
    assert series.seconds == took
    assert [*accumulate(series.buckets)] == [0] * place + [1] * (len(SECONDS) + 1 - place)


def test_each_shape_of_a_function_has_a_series() -> None:
    counts = Counts(Side.SERVER)
    for stream_type in (StreamType.UNARY, StreamType.STREAM, StreamType.UNARY):
        with CountedCall(counts, call_of(stream_type=stream_type)):
            pass
    assert {series.stream_type: series.started for series in counts} == {
        StreamType.UNARY: 2,
        StreamType.STREAM: 1,
    }


def test_a_client_tells_so_many_names_apart_and_no_more() -> None:
    counts = Counts(Side.CLIENT)
    for number in range(MAX_METHODS + 5):
        with CountedCall(counts, call_of(f"/default/f{number}", Side.CLIENT)):
            pass
    started = {series.method: series.started for series in counts}
    assert len(started) == MAX_METHODS + 1
    assert started[UNKNOWN_METHOD] == 5


@pytest.mark.parametrize("kind", [NotFound, Unimplemented])  # the first from older servers
def test_a_name_that_servers_deny_is_counted_with_the_others_of_its_kind(
    kind: type[CallError],
) -> None:
    counts = Counts(Side.CLIENT)
    for name in ("/a/b", "/c/d"):
        with pytest.raises(kind), CountedCall(counts, call_of(name, Side.CLIENT)):
            raise kind("no")
    (series,) = counts
    assert (series.method, series.started, series.ended[kind.code]) == (UNKNOWN_METHOD, 2, 2)
