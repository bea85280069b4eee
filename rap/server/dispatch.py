"""From one inbound stream to one run of a handler to the answer: the server's flow reads here.

Every exception of a call ends in `Dispatcher.fail`, the only translation into a Reset.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from rap.call import FORWARDED, Call, Header, Request, Response, StreamType, current
from rap.clock import NEVER, Clock
from rap.errors import (
    CallError,
    Code,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    encode_error,
)
from rap.processor.base import Pipeline
from rap.schema.function import decode_any, encode_any
from rap.server.inbound_call import ServerStream
from rap.server.log_fields import log_fields
from rap.server.middleware.chain import MessageChain
from rap.server.router import Handler, Router
from rap.server.streaming import serve_channel, serve_stream
from rap.server.threads import Threads
from rap.wire.codec import pack, unpack
from rap.wire.frames import END, MESSAGE, UNSERVED
from rap.wire.stream import CLOSED

__all__ = ["Dispatcher", "failure", "unreadable"]


# Bytes; a Reset is one frame, and every peer takes frames of 16 KiB.
_MAX_MESSAGE = 4096
_MAX_DETAILS = 8192
_MAX_TRACEBACK = 6000  # characters, the last ones
# Reserved header to what it says of a body, and who reads it.
_CHANGED = {
    ":crypto": ("encrypted", "CryptoProcessor"),
    ":deflate": ("compressed", "CompressProcessor"),
}


def failure(exc: BaseException, *, debug: bool) -> tuple[Code, str, dict[str, Any]]:
    """Return code, message and details of the Reset for an exception.

    Args:
        exc: What ended the call; its text and details are the user's, and may be anything.
        debug: Add the traceback.
    """
    kind = type(exc).__name__
    try:
        code, message, details = encode_error(exc, debug=debug)
    except Exception:
        return Code.UNKNOWN, f"{kind}, whose text cannot be made", {"type": kind}
    if debug:
        text = details["traceback"][-_MAX_TRACEBACK:]
        details["traceback"] = text.encode("ascii", "backslashreplace").decode()[-_MAX_TRACEBACK:]
    if not _can_be_sent(details):
        details = {} if isinstance(exc, CallError) else {"type": kind}
        message += " (with details that cannot be sent)"
    encoded = message.encode("utf-8", "backslashreplace")
    return code, encoded[:_MAX_MESSAGE].decode("utf-8", "ignore"), details


def unreadable(method: str, header: Header, reads: Collection[str]) -> InvalidArgument | None:
    """Return the error of a call whose body only a processor could read that is not here.

    Args:
        method: What was called.
        header: What the call says of its body.
        reads: Headers that the processors of this server know.
    """
    for name, (how, processor) in _CHANGED.items():
        if name in header and name not in reads:
            return InvalidArgument(
                f"{method}: the call is {how}, and this server has no {processor}: "
                f"load one into the server, or none into the client"
            )
    return None


def _can_be_sent(details: dict[str, Any]) -> bool:
    try:
        packed = pack(details)
        unpack(packed)
    except ValueError:
        return False
    return len(packed) <= _MAX_DETAILS


_UNARY, _CHANNEL = StreamType.UNARY, StreamType.CHANNEL  # look-ups are slow
_set_current = current.set
_ANSWER = MESSAGE | END
_EAGER = sys.version_info >= (3, 12)
_CANCEL_GRACE = 5.0  # seconds that cancelled handlers have for their own cleanup
_LONGEST_ROUTE = 256  # bytes; a longer Open has a header that hardly comes twice
_MAX_ROUTES = 4096  # Opens remembered by their bytes; with more different ones, start afresh

Run = Callable[[ServerStream], Coroutine[Any, Any, None]]
# What a function is called by with another shape.
_ASKED = {
    StreamType.UNARY: "unary function; declare it without Channel or `yield`",
    StreamType.STREAM: "stream function; declare it with `yield`, or use iterator_call",
    StreamType.CHANNEL: "channel function; declare it with a parameter of type Channel",
}
# Handler, seconds it may run, header, what runs it (`None`: inline).
Route = tuple[Handler, float, Header, Run | None]
# Positional and keyword arguments.
Arguments = tuple[Sequence[Any], Mapping[str, Any] | None]


class Dispatcher:
    """Runs handlers.

    Args:
        router: The table of functions.
        pipeline: Processors of the server.
        clock: Source of time.
        threads: Where `def` handlers run.
        messages: Middleware around unary calls, if there is any.
        debug: Send tracebacks.
        log: Logger of the server.
    """

    def __init__(
        self,
        router: Router,
        pipeline: Pipeline,
        clock: Clock,
        threads: Threads,
        *,
        messages: MessageChain | None = None,
        debug: bool,
        log: logging.Logger,
    ) -> None:
        self.pipeline = pipeline
        self.threads = threads
        self._router = router
        self._monotonic = clock.monotonic
        self._debug = debug
        self._log = log
        self._routes: dict[bytes, Route] = {}
        router.on_replace = self._routes.clear
        self._loop = asyncio.get_running_loop()
        self._create_task = self._loop.create_task
        self._plain = pipeline.empty
        self._messages = messages
        self._orphans: set[asyncio.Task[None]] = set()  # cancelled, their stream forgotten

    def open(self, stream: ServerStream, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        """Start to serve a stream that the peer opened."""
        route = self._routes.get(meta)
        try:
            if route is None:
                route = self._route(meta)
            handler, limit, header, run = route
            stream.handler = handler
            stream.route = route
            stream.body = body
            if handler.is_private and (FORWARDED in header or not stream.conn.peer.is_local):
                raise NotFound(f"no function {handler.method!r} on this server")
            if handler.allow is not None and handler.allow(stream.as_call()) is not True:
                raise PermissionDenied(f"{handler.method}: this client may not call it")
            if limit != NEVER:
                now = self._monotonic()
                stream.deadline = deadline = now + limit
                if deadline < stream.conn.watchdog.at:
                    stream.conn.watchdog.watch(deadline)
            if (flags != _ANSWER or handler.stream_type is _CHANNEL) and not _fits(handler, flags):
                raise InvalidArgument(f"{handler.method} is a {_ASKED[handler.stream_type]}")
            if run is None:
                self._run_inline(stream)
            elif _EAGER and not (handler.stream_type is _CHANNEL and stream.state):
                # A channel that has ended already: its messages follow when this returns.
                task = asyncio.Task(run(stream), loop=self._loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]  # 3.12+
                if not task.done():
                    stream.task = task
            else:
                stream.task = self._create_task(run(stream))
        except Exception as exc:
            self.fail(stream, exc)

    def fail(self, stream: ServerStream, exc: BaseException, *, began: bool = False) -> None:
        """Tell the caller how the call ended; the one place where an exception becomes a Reset.

        Args:
            stream: The call.
            exc: What ended it.
            began: The handler has run; so has it where the stream says so.

        Raises:
            SystemExit, KeyboardInterrupt: It is one: the process ends, and its connections.
        """
        if isinstance(exc, SystemExit | KeyboardInterrupt) or self._loop.is_closed():
            raise exc
        stream.failed = True
        if isinstance(exc, InvalidArgument) and hasattr(stream, "route") and not stream.began:
            handler, _, header, _ = stream.route
            exc = unreadable(handler.method, header, self.pipeline.reads) or exc
        if not isinstance(exc, CallError):
            if self._log.isEnabledFor(logging.INFO):
                extra = self._fields(stream, Code.UNKNOWN)
                what = extra["method"] if extra else "a call"
                self._log.info("%s raised %r", what, exc, exc_info=exc, extra=extra)
        elif exc.code is Code.INTERNAL:
            self._log.error("%s", exc, extra=self._fields(stream, exc.code))
        code, message, details = failure(exc, debug=self._debug)
        # A handler may pass on an error of a call that it made, and that went unserved.
        unserved = isinstance(exc, CallError) and exc.unserved and not (began or stream.began)
        if self.pipeline.sees_errors and hasattr(stream, "handler"):
            seen = self.pipeline.error(stream.as_call(), (code, message, details))
            code, message, details = Code(seen[0]), seen[1], seen[2]
        stream.conn.reset(stream, code, message, details, UNSERVED if unserved else 0)

    def _fields(self, stream: ServerStream, code: Code) -> dict[str, Any] | None:
        """Return what a record about a call carries; `None` if nobody knows what was called."""
        if not hasattr(stream, "route"):
            return None
        limit = stream.route[1]
        seconds = None if limit == NEVER else self._monotonic() - (stream.deadline - limit)
        return log_fields(stream.as_call(), code, seconds)

    async def close(self) -> None:
        """Await what is left of cancelled handlers; connections are closed by now."""
        self.threads.close()
        if self._orphans:
            _, deaf = await asyncio.wait(self._orphans, timeout=_CANCEL_GRACE)
            for task in deaf:
                self._log.error("%r goes on %g s after it was cancelled", task, _CANCEL_GRACE)

    def give_up(self, stream: ServerStream) -> None:
        """End a call at shutdown."""
        error = Unavailable("the server is shutting down")
        self.fail(stream, error)
        stream.fail(error)

    def keep_task(self, task: asyncio.Task[None]) -> None:
        """Keep a cancelled task until it has ended: its stream is in no table any more."""
        self._orphans.add(task)
        task.add_done_callback(self._orphans.discard)

    def _route(self, meta: bytes) -> Route:
        """Read what an Open asks for, and remember it by its bytes."""
        method, timeout_ms, header = _read_open(meta)
        handler = self._router.match(method, is_local=True)  # privacy is checked per call
        limit = timeout_ms / 1000.0 if timeout_ms else NEVER
        route = (handler, min(limit, handler.run_timeout), header, self._runner(handler, header))
        if len(meta) <= _LONGEST_ROUTE:
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[meta] = route
        return route

    def _runner(self, handler: Handler, header: Header) -> Run | None:
        """Return what runs a handler: settled here, not anew in each call."""
        if handler.stream_type is not _UNARY:
            return self._run_messages
        if self._messages is not None:
            return self._run_through_middleware
        if not self._plain and not self.pipeline.ignores(header):
            return self._run_processed
        if handler.function.is_async and not handler.function.has_keywords:
            return self._run_unary
        return None if handler.inline else self._run_processed

    def _run_inline(self, stream: ServerStream) -> None:
        handler = stream.handler
        function = handler.function
        token = current.set(stream)
        try:
            args, kwargs = function.decode_call(stream.body)
            result = handler.func(*args, **kwargs) if kwargs else handler.func(*args)
            stream.conn.protocol.send_response(stream, function.encode_result(result))
        except BaseException as exc:
            self.fail(stream, exc, began=True)
        finally:
            current.reset(token)

    async def _run_unary(self, stream: ServerStream) -> None:
        try:
            _set_current(stream)
            handler = stream.handler
            function = handler.function
            result = await handler.func(*function.decode_args(stream.body))
            stream.conn.protocol.send_response(stream, function.encode_result(result))
        except asyncio.CancelledError:
            self._cancelled(stream)
            raise
        except BaseException as exc:
            self.fail(stream, exc, began=True)
        finally:
            stream.task = None  # whose context holds the stream: no cycle for the collector

    async def _run_processed(self, stream: ServerStream) -> None:
        try:
            _set_current(stream)
            call = stream.as_call()
            handler = stream.handler
            function = handler.function
            pipeline = self.pipeline
            with pipeline.scope(call):
                content = stream.body
                if pipeline.transforms:
                    request = Request(call, decode_any(content), call.header)
                    request = stream.processed = await pipeline.request(request)
                    content = encode_any(request.body)
                args, kwargs = function.decode_call(content)
                stream.began = True
                if function.is_async:
                    result = await (
                        handler.func(*args, **kwargs) if kwargs else handler.func(*args)
                    )
                else:
                    result = await self._run_other(handler, (args, kwargs))
                meta, body = b"", function.encode_result(result)
                if pipeline.transforms:
                    response = await pipeline.response(Response(call, decode_any(body)))
                    meta = pack(response.header) if response.header else b""
                    body = encode_any(response.body)
            if meta:
                stream.conn.protocol.send_data(stream, _ANSWER, meta, body)
            else:
                stream.conn.protocol.send_response(stream, body)
        except asyncio.CancelledError:
            self._cancelled(stream)
            raise
        except BaseException as exc:
            self.fail(stream, exc)
        finally:
            stream.task = None  # whose context holds the stream: no cycle for the collector

    async def _run_through_middleware(self, stream: ServerStream) -> None:
        assert self._messages is not None
        began, size = self._messages.monotonic(), 0
        error: BaseException | None = None
        try:
            _set_current(stream)
            size = await self._serve_unary(stream, self._messages)
        except asyncio.CancelledError as exc:
            error = stream.error or exc
            self._cancelled(stream)
            raise
        except BaseException as exc:
            error = exc
            self.fail(stream, exc)
        finally:
            stream.task = None  # whose context holds the stream: no cycle for the collector
            self._messages.answered(stream, error, began, size)

    async def _run_other(self, handler: Handler, arguments: Arguments) -> Any:
        """Run a handler that is a `def`, or has keyword-only parameters."""
        args, kwargs = arguments
        if handler.function.is_async:
            return await handler.func(*args, **(kwargs or {}))
        if handler.inline:
            return handler.func(*args, **(kwargs or {}))
        return await self.threads.run(handler.func, args, kwargs)

    async def _serve_unary(self, stream: ServerStream, messages: MessageChain) -> int:
        """Serve a unary call through pipeline and middleware; return the bytes of the answer."""
        call = stream.as_call()
        function = stream.handler.function
        with self.pipeline.scope(call):
            arguments = await self.arguments(stream)
            stream.began = True
            result = await messages.run(stream, *arguments)
            body = function.encode_result(result)
            if self.pipeline.transforms:
                meta, body = await self.outbound(call, decode_any(body))
            else:
                meta = b""
        stream.conn.protocol.send_data(stream, _ANSWER, meta, body)
        return len(body)

    async def _run_messages(self, stream: ServerStream) -> None:
        serve = serve_channel if stream.handler.stream_type is _CHANNEL else serve_stream
        try:
            _set_current(stream)
            with self.pipeline.scope(stream.as_call()):
                await serve(self, stream)
        except asyncio.CancelledError:
            self._cancelled(stream)
            raise
        except BaseException as exc:
            self.fail(stream, exc)
        finally:
            stream.task = None  # whose context holds the stream: no cycle for the collector

    async def arguments(self, stream: ServerStream) -> Arguments:
        """Return the arguments of a call, after the processors have seen them."""
        function = stream.handler.function
        if not self.pipeline.transforms:
            return function.decode_call(stream.body)
        call = stream.as_call()
        request = Request(call, decode_any(stream.body), call.header)
        request = stream.processed = await self.pipeline.request(request)
        return function.decode_call(encode_any(request.body))

    async def outbound(self, call: Call, body: Any) -> tuple[bytes, bytes]:
        """Return header and body of a message after the processors have seen it."""
        response = await self.pipeline.response(Response(call, body))
        meta = pack(response.header) if response.header else b""
        return meta, encode_any(response.body)

    def _cancelled(self, stream: ServerStream) -> None:
        """Tell the caller, if it has not given up itself, that the handler was cancelled."""
        if stream.state != CLOSED:
            self.fail(stream, CallError("the handler was cancelled", code=Code.CANCELLED))


def _fits(handler: Handler, flags: int) -> bool:
    """Whether an Open has arguments exactly if the function is no channel."""
    return (flags & _ANSWER == _ANSWER) is not (handler.stream_type is _CHANNEL)


def _read_open(meta: bytes) -> tuple[str, int, Header]:
    try:
        match unpack(meta):
            case [str(method), int(timeout_ms)] if timeout_ms >= 0:
                return method, timeout_ms, {}
            case [str(method), int(timeout_ms), dict(header)] if timeout_ms >= 0:
                return method, timeout_ms, header
    except ValueError as exc:
        raise InvalidArgument(f"a malformed Open: {exc}") from exc
    raise InvalidArgument("an Open must name [method, timeout_ms] or [method, timeout_ms, header]")
