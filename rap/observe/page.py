"""Pages with metrics, which cost the event loop time: at most a tenth of it, however many ask.

The form of a page is the one of Prometheus or OpenMetrics that a request accepts.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic, thread_time
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from rap.observe.http import HttpResponse

__all__ = ["Form", "Pages"]

_REST = 9  # times as long as making a page took, until the next one is made
_OPEN_METRICS = "application/openmetrics-text"
_LONGEST_REST = 1.0  # seconds


class Form(NamedTuple):
    """The form of a page.

    Args:
        encode: Returns the text of metrics. Only OpenMetrics has exemplars.
        content_type: Its media type.
    """

    encode: Callable[[CollectorRegistry], bytes]
    content_type: str

    @classmethod
    def accepted_by(cls, accept: str) -> "Form":
        """Return the form for a header Accept: OpenMetrics if it names that, else Prometheus.

        There are no more forms, because each costs a page. So versions and escapings that a
        request names are ignored.
        """
        chosen: Any = choose_encoder(_OPEN_METRICS if _OPEN_METRICS in accept else "")
        return cls(*chosen)


class Pages:
    """Makes pages one after another. A request gets a page that was begun after it came.

    Args:
        make: Makes a page.
    """

    def __init__(self, make: Callable[[Form], Awaitable[bytes]]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._made: dict[str, tuple[float, HttpResponse]] = {}  # when it was begun, by media type
        self._free_at = 0.0

    async def respond(self, accept: str) -> HttpResponse:
        """Return the response to a request with a header Accept."""
        came = monotonic()
        form = Form.accepted_by(accept)
        async with self._lock:
            made = self._made.get(form.content_type)
            if made is not None and made[0] > came:
                return made[1]
            pause = self._free_at - monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            began, used = monotonic(), thread_time()
            try:
                body = await self._make(form)
            finally:
                rest = min((thread_time() - used) * _REST, _LONGEST_REST)
                self._free_at = monotonic() + rest
            response = HttpResponse("200 OK", form.content_type, body)
            self._made[form.content_type] = began, response
            return response
