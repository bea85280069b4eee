"""Pages with metrics: whatever a request accepts, and however many requests come."""

import asyncio
from time import thread_time

import pytest
from prometheus_client import CollectorRegistry, Gauge

from rap.observe.page import Form, Pages

TEXT = "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=\xff;q=nan",
        "application/openmetrics-text;version=",
        "application/openmetrics-text;version=1.x.0",
        "application/openmetrics-text;version;escaping",
        "text/plain;version=\xff",
        "text/plain;version=1.0.0;escaping=nothing",
        "application/openmetrics-text;version=" + "9" * 5000,
        ";;;,,,==",
        "," * 10_000,
        "",
    ],
)
def test_every_header_accept_has_a_form(accept: str) -> None:
    form = Form.accepted_by(accept)
    assert form.content_type.split(";")[0] in ("text/plain", "application/openmetrics-text")
    assert isinstance(form.encode(CollectorRegistry()), bytes)


def test_there_are_two_forms_whatever_requests_name() -> None:
    open_metrics = "application/openmetrics-text"
    ends = ("", ";version=1.0.0", ";version=0.0.1", ";version=9\nSet-Cookie: a=b", ";escaping=dots")
    accepted = [f"{kind}{end}" for kind in ("text/plain", open_metrics, "*/*") for end in ends]
    types = {Form.accepted_by(accept).content_type for accept in accepted}
    assert types == {TEXT, f"{open_metrics}; version=1.0.0; charset=utf-8"}


async def test_many_requests_at_once_share_pages() -> None:
    made = 0

    async def make(form: Form) -> bytes:
        nonlocal made
        made += 1
        end = thread_time() + 0.002
        while thread_time() < end:
            pass
        return str(made).encode()

    pages = Pages(make)
    found = await asyncio.gather(*(pages.respond("") for _ in range(200)))
    assert made == 2  # the first request, and all that came while it was answered
    assert [each.body for each in found] == [b"1", *[b"2"] * 199]
    assert {each.content_type for each in found} == {TEXT}


async def test_a_page_has_what_was_so_when_the_request_came() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("now", "A number.", registry=registry)

    async def make(form: Form) -> bytes:
        return form.encode(registry)

    pages = Pages(make)
    for number in range(50):
        gauge.set(number)
        answers = await asyncio.gather(*(pages.respond("") for _ in range(3)))
        assert all(f"now {number}.0".encode() in each.body for each in answers)


async def test_a_page_that_fails_is_tried_again_for_the_next_request() -> None:
    fails = [True, False]

    async def make(form: Form) -> bytes:
        if fails.pop(0):
            raise LookupError
        return b"good"

    pages = Pages(make)
    first, second = await asyncio.gather(
        pages.respond(""), pages.respond(""), return_exceptions=True
    )
    assert isinstance(first, LookupError)
    assert not isinstance(second, BaseException)
    assert second.body == b"good"
