"""Items of a generator as server-sent events (WHATWG HTML, section 9.2)."""

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from rap.client.response_stream import ResponseStream
from rap.errors import CallError
from rap.gateway.reply import failure_of, to_json

__all__ = ["MEDIA_TYPE", "stream_events"]

MEDIA_TYPE = "text/event-stream"
_NOTHING = object()


async def stream_events(items: ResponseStream) -> StreamingResponse:
    """Return a response that has one event for each item; a client that leaves ends the generator.

    An event ``end`` follows the last item, an event ``error`` what was there before an error: a
    browser would take a mere end for a lost connection, and ask again.

    Raises:
        CallError: There is no first item: the call failed.
    """
    first = await anext(items, _NOTHING)
    if first is not _NOTHING:
        to_json(first)  # what has no form in JSON is told by the status
    return StreamingResponse(
        _events(first, items), media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"}
    )


async def _events(first: Any, items: ResponseStream) -> AsyncIterator[str]:
    try:
        if first is not _NOTHING:
            yield f"data: {to_json(first)}\n\n"
            async for item in items:
                yield f"data: {to_json(item)}\n\n"
        yield "event: end\ndata: null\n\n"
    except CallError as error:
        yield f"event: error\ndata: {to_json(failure_of(error))}\n\n"
    finally:
        await items.aclose()
