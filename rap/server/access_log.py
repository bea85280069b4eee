"""The access log of a server: one line for each call of any stream type, when it has ended.

A server without it pays nothing: it wraps the functions that take and run calls only if it is on.
"""

import logging
from typing import Any

from rap.call import Encoded
from rap.clock import Clock
from rap.errors import Code
from rap.foreign import one_line
from rap.server.dispatch import Run, ServerStream
from rap.server.log_fields import access_fields, log_fields, write_access
from rap.server.message_limits import OnOpen
from rap.wire.codec import unpack_header

__all__ = ["AccessLog"]

_log = logging.getLogger("rap.server.access")
_PING = "/registry/"  # what `rap ping` and `rap top` call; no function can have this name


class AccessLog:
    """Logs calls to ``rap.server.access`` at level INFO.

    The calls that an overloaded server refuses are not logged one by one: that would cost more than
    it costs to refuse them, and the server warns of them every ten seconds.

    Args:
        clock: Source of time.
        has_middleware: Whether message middleware logs the calls that it sees.
    """

    def __init__(self, clock: Clock, *, has_middleware: bool) -> None:
        self._monotonic = clock.monotonic
        self._has_middleware = has_middleware

    @staticmethod
    def is_enabled() -> bool:
        """Return whether logging keeps the lines."""
        return _log.isEnabledFor(logging.INFO)

    def subscribe(self, on_open: OnOpen) -> OnOpen:
        """Return a function that takes each call that is opened, notes when, and passes it on."""

        def opened(stream: ServerStream, flags: int, meta: bytes, body: Encoded) -> None:
            stream.observe(_LoggedCall(self, self._monotonic(), meta))
            on_open(stream, flags, meta, body)

        return opened

    def around(self, run: Run) -> Run:
        """Return a function that runs a call as `run` does, and logs how it ended."""

        async def logged(stream: ServerStream) -> None:
            call = stream.observer
            assert isinstance(call, _LoggedCall)
            call.begin()
            try:
                await run(stream)
            finally:
                call.end(stream, is_logged=self._has_middleware and stream.handler.has_one_response)

        return logged

    def write(self, call: "_LoggedCall", stream: ServerStream) -> None:
        """Log a call that has ended."""
        if not _log.isEnabledFor(logging.INFO):
            return
        code, seconds = call.code or Code.OK, self._monotonic() - call.began
        record: dict[str, Any]
        if hasattr(stream, "handler"):
            record = log_fields(stream.as_call(), code, seconds)
        else:
            record = _of_unknown(call.meta, stream, code, seconds)
            if record["method"] == _PING:
                return
        write_access(_log, access_fields(record, seconds, error=call.error), record)


class _LoggedCall:
    """What the log knows of an open call.

    Args:
        log: Gets the call when it has ended.
        began: When it was opened, in seconds on the monotonic clock.
        meta: Meta of its Open.
    """

    __slots__ = ("_is_logged", "_is_running", "_log", "began", "code", "error", "meta")

    def __init__(self, log: AccessLog, began: float, meta: bytes) -> None:
        self._log = log
        self.began = began
        self.meta = meta
        self.code: Code | None = None
        self.error = ""
        self._is_running = False
        self._is_logged = False

    def failed(self, stream: ServerStream, code: Code, details: dict[str, Any]) -> None:
        """Note the first error; one that ends a call before it runs is logged now."""
        if self.code is None:
            self.code = code
            if code is Code.UNKNOWN:
                self.error = one_line(details.get("type", ""))
        if not self._is_running:
            self._write(stream)

    def begin(self) -> None:
        """Note that the call runs: it is logged when that ends."""
        self._is_running = True

    def end(self, stream: ServerStream, *, is_logged: bool) -> None:
        """Log the call, unless something else has logged it."""
        self._is_running = False
        self._is_logged = self._is_logged or is_logged
        self._write(stream)

    def _write(self, stream: ServerStream) -> None:
        if not self._is_logged:
            self._is_logged = True
            self._log.write(self, stream)


def _of_unknown(meta: bytes, stream: ServerStream, code: Code, seconds: float) -> dict[str, Any]:
    """Return the record of a call of a function that does not exist, or whose Open is malformed."""
    try:
        content = unpack_header(meta)
    except ValueError:
        content = None
    match content:
        case [str(method), *_]:
            pass
        case _:
            method = ""
    return {
        "method": one_line(method),
        "peer": str(stream.conn.peer),
        "code": code.name,
        "seconds": seconds,
        "trace_id": "",
    }
