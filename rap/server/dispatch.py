"""How a server runs calls: from an inbound stream to a handler and back to the response.

A `ServerStream` is one inbound call, and the `Dispatcher` runs it. Every exception of a call ends
in `Dispatcher.fail`, the only place that turns one into a Reset.
"""

import asyncio
import inspect
import logging
import sys
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from rap.call import (
    FORWARDED,
    HEADER_DETAIL,
    MESSAGES_END,
    TRAILER,
    Call,
    Encoded,
    Header,
    Request,
    Side,
    StreamType,
    current,
)
from rap.clock import NEVER, Clock
from rap.errors import (
    RAISED,
    CallError,
    Code,
    DeadlineExceeded,
    HandlerError,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
    encode_error,
)
from rap.foreign import one_line, repr_of
from rap.processor.base import Pipeline, encode_body
from rap.schema.costs import NEVER_SLOW
from rap.schema.error_fields import sent_fields
from rap.schema.function import decode_any
from rap.server.log_fields import log_fields
from rap.server.overload.entrances import Entrance, Entrances, Overload
from rap.server.overload.gate import Gate, Line
from rap.server.overload.limits import Running
from rap.server.overload.refusals import Refusals, overload_error, priority_of, retry_after
from rap.server.router import Handler, Router
from rap.server.signals import is_ctrl_c
from rap.server.threads import Job, Threads
from rap.tracebacks import compact
from rap.transport.rate_limit import TokenBucket
from rap.transport.stream import Stream
from rap.wire.codec import (
    MAX_HEADER_ELEMENTS,
    PLAIN_SIZES,
    ValueSizes,
    decoded_size,
    pack,
    unpack,
    unpack_header,
)
from rap.wire.frames import END, MESSAGE, UNSERVED, read_reset
from rap.wire.stream import CLOSED, LOCAL_DONE, REMOTE_END

__all__ = [
    "Dispatcher",
    "ServerStream",
    "StreamServer",
    "UnaryMiddleware",
    "encode_response",
    "error_reply",
    "missing_processor",
]

_UNARY, _CHANNEL = StreamType.UNARY, StreamType.CHANNEL  # look-ups are slow
_SERVER = Side.SERVER
_set_current = current.set
_RESPONSE = MESSAGE | END
_EAGER = sys.version_info >= (3, 12)
_CANCEL_GRACE = 5.0  # seconds that cancelled handlers have for their own cleanup
_MAX_ROUTE = 256  # bytes; the header of a longer Open is unlikely to occur twice
_MAX_ROUTES = 4096  # cached; when there are more, the cache is emptied
_HINTS = 10  # per second: each looks at the names of all functions
# Limits of an error reply in bytes: a Reset is one frame, and every peer takes frames of 16 KiB.
_MAX_MESSAGE = 4096
_MAX_DETAILS = 8192
_MAX_LOGGED = 1000  # characters of an error that callers do not see
_MAX_TRACEBACK = 6000  # characters; the end is kept
# Bytes of a header or trailer that a handler sets. The least room for meta in a frame is 15 KiB.
_MAX_METADATA = 7168
_MAX_METADATA_VALUES = MAX_HEADER_ELEMENTS - 64  # of both together; processors add some
# Errors whose texts may be about the inside of a service, and are not sent if the server says so.
_INNER = (Code.UNKNOWN, Code.INTERNAL, Code.UNAVAILABLE)
_DECLARED = {
    StreamType.UNARY: "unary function; declare it without Channel or `yield`",
    StreamType.STREAM: "stream function; declare it with `yield`, or use iterator_call",
    StreamType.CLIENT_STREAM: "client-streaming function; declare it with a parameter"
    " AsyncIterator[...]",
    StreamType.BIDI: "bidirectional function; declare it with a parameter AsyncIterator[...]"
    " and `yield`",
    StreamType.CHANNEL: "channel function; declare it with a parameter of type Channel",
}
_INFLATED = ":deflate"  # header of a compressed request: its bytes after inflation
_NIL = b"\xc0"  # as a body
_NO_ARGUMENTS = b"\x90"
_THREADED = 256 * 1024  # inflated bytes from which on a thread decodes them
_MUCH = 256 * 1024  # bytes of decoded arguments after which the connection is measured
_LARGE = 16 * 1024  # bytes from which on they count as memory that is held for the client
# What a reserved header says of the body, and the processor that reads such a body.
_TRANSFORMED = {
    ":crypto": ("encrypted", "CryptoProcessor"),
    ":deflate": ("compressed", "CompressProcessor"),
}

# Positional and keyword arguments.
CallArguments = tuple[Sequence[Any], Mapping[str, Any] | None]
Run = Callable[["ServerStream"], Coroutine[Any, Any, None]]
# Handler, seconds it may run, header, the function that runs it (`None`: inline), and what its
# calls must pass.
Route = tuple[Handler, float, Header, Run | None, Entrance | None]


class UnaryMiddleware(Protocol):
    """The message middleware of a server; see `rap.server.middleware.chain`."""

    monotonic: Callable[[], float]
    exception_level: int | None

    async def run(
        self,
        stream: "ServerStream",
        request: Request,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
    ) -> Any:
        """Run the handler inside the middleware; return its result, or raise."""
        ...

    def answered(
        self, stream: "ServerStream", error: BaseException | None, began: float, size: int
    ) -> None:
        """Report how a call ended."""
        ...


class CallObserver(Protocol):
    """What learns of the errors of one call; see `rap.server.access_log`."""

    def failed(self, stream: "ServerStream", code: Code, details: dict[str, Any]) -> None:
        """Take the error that ends the call, or one that follows it."""
        ...


class StreamServer(Protocol):
    """What serves calls of several messages; see `rap.server.streaming`."""

    def serve(self, stream: "ServerStream") -> Coroutine[Any, Any, None]:
        """Run a function of any other stream type than unary, and send what it returns."""
        ...

    def with_requests(self, stream: "ServerStream", arguments: CallArguments) -> CallArguments:
        """Return the arguments of a function together with its request stream."""
        ...


class ResponseMetadata:
    """The header and the trailer that a handler sets for the response of its call."""

    __slots__ = ("header", "trailer")

    def __init__(self) -> None:
        self.header: Header = {}
        self.trailer: Header = {}

    def set_header(self, name: str, value: Any) -> None:
        """Set a value in the header."""
        self.header = _with_value("header", self.header, name, value, self.trailer)

    def set_trailer(self, name: str, value: Any) -> None:
        """Set a value in the trailer."""
        self.trailer = _with_value("trailer", self.trailer, name, value, self.header)

    def as_details(self) -> Header:
        """Return both by their reserved names, for a Reset or the end of an encrypted call."""
        named = {HEADER_DETAIL: self.header, TRAILER: self.trailer}
        return {name: values for name, values in named.items() if values}


class ServerStream(Stream):
    """One inbound call: its stream, handler and task. The dispatcher sets them when it opens."""

    handler: Handler
    route: Route  # its header is shared with other calls
    processed: Request | None = None
    began = False  # the handler has run; only set where processors or middleware come first
    failed = False  # it ended by an error
    task: asyncio.Task[None] | None = None
    thread: Future[Any] | None = None  # of a `def` handler that goes on after its task
    call: Call | None = None
    is_excused = False  # it has waited for a server that was away
    items_size = 0  # bytes of the items of a request stream that were read
    metadata: ResponseMetadata | None = None  # made when the handler sets a value
    response_began = False  # the header has been sent; only set for responses of several messages
    observer: CallObserver | None = None
    _job: Job | None = None
    _line: "Line[ServerStream] | None" = None
    _is_done = False  # the client of a channel reads nothing more
    _on_done: Callable[[], None] | None = None

    @property
    def deadline_text(self) -> str:
        """Which time limit has passed, and what the call was doing, for the error."""
        handler, limit, *_ = self.route
        which = "the caller's deadline"
        if limit == handler.run_timeout:
            which = "its run_timeout"
        elif limit is handler.default_timeout:  # the object: a caller may ask for the same time
            which = "the server's default run_timeout"
        where = "the handler was running" if self._job is None else f"the handler {self._job.where}"
        if self.is_waiting:
            where = "it waited for its turn"
        return f"{handler.method}: {which} of {limit:g} s passed while {where}"

    @property
    def is_waiting(self) -> bool:
        """Whether the call has not begun, because the server has others to begin first."""
        return self._line is not None

    @property
    def has_begun(self) -> bool:
        """Whether the handler may have run."""
        if self.is_waiting or not hasattr(self, "handler"):
            return False
        coro = None if self.task is None else self.task.get_coro()
        return not (
            inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED
        )

    @property
    def is_new(self) -> bool:  # type: ignore[override]
        """Whether no handler has begun: the call can be retried on another server."""
        return not self.has_begun

    @property
    def priority(self) -> int:
        """Index of the priority of the call in `rap.call.PRIORITIES`."""
        handler, _, header, *_ = self.route
        return priority_of(header, handler.priority)

    @property
    def is_over(self) -> bool:
        """Whether the handler has ended; what it has started and left behind may go on."""
        state, task, thread = self.state, self.task, self.thread
        return (
            bool(state & LOCAL_DONE and state & REMOTE_END)
            and (task is None or task.done())
            and (thread is None or thread.done())
        )

    @property
    def time_limit(self) -> float:  # type: ignore[override]  # it is known once the call was named
        """Seconds that the call may take; `NEVER` before it was named."""
        return self.route[1] if hasattr(self, "route") else NEVER

    @property
    def method(self) -> str:
        """The function, as ``/group/name``."""
        return self.handler.method

    @property
    def draining(self) -> bool:
        """Whether the client was asked to make new calls elsewhere."""
        return self.conn.draining

    @property
    def header(self) -> Header:
        """The header that the client sent when it opened the call."""
        return self.route[2] if self.call is None else self.call.header

    def as_call(self) -> Call:
        """Return the `Call`, which is made on first use."""
        call = self.call
        if call is None:
            handler = self.handler
            header = {**self.route[2]}
            call = self.call = Call(
                handler.method, handler.stream_type, _SERVER, header, self.deadline, self.conn.peer
            )
        return call

    def request(self) -> Request:
        """Return the request being served, as `context.request` shows it."""
        if self.processed is not None:
            return self.processed
        call = self.as_call()
        if not self.body or self.handler.takes_nothing:
            return Request(call, None, call.header)
        return Request(call, _as_body(*self.handler.function.decode_call(self.body)), call.header)

    async def begin(self, pipeline: Pipeline, threads: Threads) -> CallArguments:
        """Return the arguments after the processors have seen them; the handler runs next."""
        function = self.handler.function
        body = self.body
        if pipeline.transforms:
            await self.reserve_inflated(self.route[2])
            call = self.as_call()
            request = self.processed = await pipeline.pass_request(call, body, call.header)
            body = pipeline.encode_arrived(request)
            if body is not self.body:
                self.note_decoded(body)
            if body == _NIL and self.handler.reads_stream:  # it calls a channel
                method, kind = self.handler.method, self.handler.stream_type
                raise InvalidArgument(f"{method} is a {_DECLARED[kind]}")
        if self.takes_long(body):
            arguments = await threads.decode(self.conn, function.decode_call, body)
        else:
            arguments = function.decode_call(body)
        self.began = True
        return arguments

    def takes_long(self, body: Encoded) -> bool:
        """Whether a thread should decode the arguments in a body."""
        return len(body) > self.handler.function.slow_from or self.inflated > _THREADED

    async def begin_channel(self, pipeline: Pipeline, threads: Threads) -> CallArguments:
        """Return the arguments of a channel after the processors have seen them.

        The Open of a channel without arguments has no body, and nil if it is encrypted.
        """
        body: Encoded = self.body or _NIL
        if pipeline.transforms:
            await self.reserve_inflated(self.route[2])
            call = self.as_call()
            body = pipeline.encode_arrived(await pipeline.pass_request(call, body, call.header))
            self.note_decoded(body)
        arguments: CallArguments = ((), None)
        if not self.handler.takes_nothing:
            decode, body = (
                self.handler.function.decode_call,
                _NO_ARGUMENTS if body == _NIL else body,
            )
            is_slow = self.takes_long(body)
            arguments = await threads.decode(self.conn, decode, body) if is_slow else decode(body)
        elif body is not _NIL and isinstance(decode_any(body), list | dict):
            raise InvalidArgument(f"{self.handler.method} is a {_DECLARED[_CHANNEL]} and no other")
        self.began = True
        return arguments

    def value_sizes(self) -> ValueSizes:
        """Return what the values of the arguments become."""
        return self.handler.function.argument_sizes if hasattr(self, "handler") else PLAIN_SIZES

    def note_decoded(self, body: Encoded) -> None:
        """Count the memory of the arguments in a body that processors have made."""
        self.count_decoded(body)
        if self.decoded_memory() > _MUCH:
            self.conn.note_growth()

    async def reserve_inflated(self, header: Header) -> None:
        """Count the bytes that a compressed message will have, before it is inflated.

        The caller may be the one that has too much: then its task is cancelled here.

        Args:
            header: The header of the message. What its call has inflated is counted as long as the
                call is open, the largest message only.
        """
        size = header.get(_INFLATED)
        if isinstance(size, int) and size > _LARGE:
            size = min(size, self.conn.protocol.limits.max_message)  # more is refused
            if size <= self.inflated:
                return
            self.inflated = size
            self.conn.note_growth()
            await asyncio.sleep(0)

    def set_header(self, name: str, value: Any) -> None:
        """Set a value in the header of the response; see `rap.server.context.set_header`."""
        if self.response_began or self.state & LOCAL_DONE:
            raise RuntimeError(f"header {name!r}: the response has begun, its header is sent")
        self.metadata = self.metadata or ResponseMetadata()
        self.metadata.set_header(name, value)

    def set_trailer(self, name: str, value: Any) -> None:
        """Set a value in the trailer of the response; see `rap.server.context.set_trailer`."""
        if self.state & LOCAL_DONE:
            raise RuntimeError(f"trailer {name!r}: the response has ended")
        self.metadata = self.metadata or ResponseMetadata()
        self.metadata.set_trailer(name, value)

    def begin_response(self) -> Header:
        """Return the header of the response, once; it goes with the first message."""
        began, self.response_began = self.response_began, True
        return {} if began or self.metadata is None else {**self.metadata.header}

    def header_meta(self) -> bytes:
        """Return the meta of the first frame of a response without processors."""
        header = self.begin_response()
        return pack(header) if header else b""

    def last_header_meta(self) -> bytes:
        """Return the meta of the last frame of a response without processors."""
        header = self.last_header()
        return pack(header) if header else b""

    def last_header(self) -> Header:
        """Return the header of the last message: the trailer, and the header if it was not sent."""
        header = self.begin_response()
        if self.metadata is not None and self.metadata.trailer:
            header[TRAILER] = self.metadata.trailer
        return header

    def end_response(self, pipeline: Pipeline) -> tuple[bytes, bytes]:
        """Return body and meta of an END that has no message.

        A processor that proves the end protects its body, so header and trailer are in that.
        """
        if not pipeline.proves_ends:
            return b"", self.last_header_meta()
        content = {} if self.metadata is None else self.metadata.as_details()
        if self.response_began:
            content.pop(HEADER_DETAIL, None)
        return pipeline.send_end(self.as_call(), content or None), b""

    def end_messages(self, pipeline: Pipeline) -> tuple[bytes, bytes]:
        """Return body and meta of the message that ends the messages before the response ends.

        It has the header of the response if no message had it; a proof of the end protects that.
        """
        header = self.begin_response()
        if not pipeline.proves_ends:
            return pack(None), pack({**header, MESSAGES_END: True})
        content: Header = {MESSAGES_END: True}
        if header:
            content[HEADER_DETAIL] = header
        return pipeline.send_end(self.as_call(), content), pack({MESSAGES_END: True})

    def excuse(self) -> None:
        """Note that the handler waits for a server that is away, so it may be late."""
        self.is_excused = True

    def keep_thread(self, running: Future[Any]) -> None:
        """Remember that the handler goes on in a thread, though its task was cancelled."""
        self.thread = running

    def count_items(self, size: int) -> None:
        """Count the bytes of items that were read from a request stream."""
        self.items_size += size

    def set_job(self, job: Job | None) -> None:
        """Take what the call runs in a thread, while it waits or runs."""
        self._job = job

    def set_line(self, line: "Line[ServerStream] | None") -> None:
        """Take the queue in which the call waits; `None` when it begins."""
        self._line = line

    def observe(self, observer: CallObserver) -> None:
        """Tell `observer` of the errors of this call."""
        self.observer = observer

    def watch_done(self, on_done: Callable[[], None] | None) -> None:
        """Call `on_done` when the client of a channel reads nothing more; `None` ends that."""
        self._on_done = on_done
        if self._is_done and on_done is not None:
            on_done()

    def on_header(self, flags: int, meta: bytes) -> None:
        """Ignore a header without a message."""

    def on_done(self) -> None:
        """Take the Done of the client, which may repeat it."""
        if self._is_done:
            return
        self._is_done = True
        if self._on_done is not None:
            self._on_done()

    async def finish(self) -> None:
        """End a call whose handler has returned and whose END is sent.

        Messages that still arrive are discarded, and the client is told to send no more.
        """
        if self.is_processing:
            self.stop_processing()
        if self.outbox is not None:
            await self.writable()
        if self.state != CLOSED:
            self.discard = True
            self.conn.reset(self, Code.OK)
            self._wake()

    def refuse(self, code: Code, message: str, details: dict[str, Any], flags: int) -> None:
        """End a call by an error; a task of the handler that still reads sees the end."""
        self.discard = True
        self.stop_processing()
        self.leave_line()
        self.conn.reset(self, code, message, details, flags)
        self._wake()
        if self.observer is not None:
            self.observer.failed(self, code, details)

    def leave_line(self) -> None:
        """Wait no longer: the call has ended before it began."""
        line, self._line = self._line, None
        if line is not None:
            line.remove(self)

    def fail(self, error: CallError) -> None:
        """End the call with `error`: the peer reset it, its deadline passed, or it was lost."""
        super().fail(error)
        self.stop_processing()
        self.leave_line()
        task = self.task
        if task is not None and not task.done():
            self.conn.keep_task(self, task)
            task.cancel()
        if self.observer is not None:
            self.observer.failed(self, error.code, {})

    def on_lost(self, error: CallError, had_ended: bool) -> None:
        """End the call: its caller has gone. For the log and for metrics, it has cancelled."""
        if self.observer is not None:
            self.observer.failed(self, Code.CANCELLED, {})
        super().on_lost(error, had_ended)


class Dispatcher:
    """Runs the handlers of a server.

    Args:
        router: The registered functions.
        pipeline: Processors of the server.
        clock: Source of time.
        threads: Where `def` handlers run.
        streaming: Serves generator and channel functions.
        middleware: Message middleware around calls with one response; `None` if there is none.
        debug: Send tracebacks to callers.
        expose_errors: Send callers what functions have raised.
        shed: Refuse calls that would begin too late.
        max_concurrency: Maximum number of calls that run at a time; `None`: any number.
        around: Wraps the function that runs a call; `None` wraps none.
        log: Logger of the server.

    Attributes:
        entrances: What calls must pass besides the gate.
        gate: Decides when calls begin.
        refusals: The calls that were refused because the server is overloaded.
    """

    def __init__(
        self,
        router: Router,
        pipeline: Pipeline,
        clock: Clock,
        threads: Threads,
        *,
        streaming: StreamServer,
        middleware: UnaryMiddleware | None = None,
        debug: bool,
        expose_errors: bool = True,
        shed: bool = True,
        max_concurrency: int | None = None,
        around: Callable[[Run], Run] | None = None,
        log: logging.Logger,
    ) -> None:
        self._router = router
        self._pipeline = pipeline
        self._threads = threads
        self._streaming = streaming
        self._middleware = middleware
        self._monotonic = clock.monotonic
        self._exception_level = logging.ERROR if middleware is None else middleware.exception_level
        self._debug = debug
        self._expose_errors = expose_errors
        self._around = around
        self._log = log
        self._hints: TokenBucket | None = None  # made with the first
        self._routes: dict[bytes, Route] = {}  # by the bytes of an Open
        router.notify_on_replace(self._routes.clear)
        self._loop = asyncio.get_running_loop()
        self._orphans: set[asyncio.Task[None]] = set()  # cancelled tasks of streams that are gone
        self.refusals = Refusals(log, self._loop)
        self.entrances = Entrances(
            threads if shed else None,
            clock,
            self._loop,
            running=_running,
            max_concurrency=max_concurrency,
            adapts=shed,
            on_change=self._routes.clear,
        )
        self.gate: Gate[ServerStream] = Gate(
            self._begin_in_turn,
            self._refuse,
            clock,
            self._loop,
            is_on=shed,
            sample=self.entrances.sample,
        )

    @property
    def overload_state(self) -> Overload:
        """Which calls wait, and which were refused because there are too many."""
        gate, counts = self.gate, self.refusals.counts
        return Overload(gate.waiting, gate.delay, gate.waited, self.entrances.limits, {**counts})

    @property
    def threads(self) -> Threads:
        """Where `def` handlers run."""
        return self._threads

    def open(self, stream: ServerStream, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        """Start to serve a stream that the peer opened."""
        route = self._routes.get(meta)
        try:
            if route is None:
                route = self._route(stream, meta)
            handler, limit, header, run, entrance = route
            stream.handler = handler
            stream.route = route
            stream.body = body
            if handler.is_private and (FORWARDED in header or not stream.conn.peer.is_local):
                raise self._unknown(stream, handler.method, header)
            if handler.allow is not None and handler.allow(stream.as_call()) is not True:
                raise PermissionDenied(f"{handler.method}: this client may not call it")
            now = 0.0
            if limit != NEVER:
                now = self._monotonic()
                stream.deadline = deadline = now + limit
                if deadline < stream.conn.watchdog.at:
                    stream.conn.watchdog.schedule(deadline)
            if (flags != _RESPONSE or handler.reads_stream) and not _fits(handler, flags):
                raise InvalidArgument(f"{handler.method} is a {_DECLARED[handler.stream_type]}")
            if entrance is not None and self._is_refused(stream, entrance):
                return
            gate = self.gate
            if not (now < gate.until and next(gate.room, False)) and gate.hold(
                stream, flags, stream.priority, now or None
            ):
                return
            if run is None or _EAGER or entrance is not None:
                self._begin(stream, flags)
            else:
                stream.task = asyncio.Task(run(stream), loop=self._loop)  # not by an eager factory
        except BaseException as exc:  # the end of the call
            self.fail(stream, exc)

    def _begin_in_turn(self, stream: ServerStream, flags: int) -> None:
        """Run the handler of a call that has waited, unless its entrance has closed meanwhile."""
        entrance = stream.route[4]
        if entrance is None or not self._is_refused(stream, entrance):
            self._begin(stream, flags)

    def _begin(self, stream: ServerStream, flags: int) -> None:
        """Run the handler of a call that its entrance lets in."""
        _, _, _, run, entrance = stream.route
        try:
            if run is None:
                self._run_inline(stream)
                return
            if _EAGER and (flags == _RESPONSE or not stream.state):
                # Not if the client has ended a stream of messages: they follow this call.
                task = asyncio.Task(run(stream), loop=self._loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]  # 3.12+
                if task.done():
                    return
            else:
                task = asyncio.Task(run(stream), loop=self._loop)  # not by an eager factory
            stream.task = task
            if stream.error is not None:  # it has ended its own call before it first waited
                self.keep_task(stream, task)
                task.cancel()
            if entrance is not None:
                entrance.enter(stream, task, self._monotonic())
        except BaseException as exc:  # the end of the call
            self.fail(stream, exc)

    def _is_refused(self, stream: ServerStream, entrance: Entrance) -> bool:
        """Refuse a call that its entrance does not let in; return whether it does not."""
        now, priority = self._monotonic(), stream.priority
        refusal = entrance.refusal(stream, priority, now)
        if refusal is None:
            return False
        self._refuse(stream, priority, *refusal)
        return True

    def _refuse(self, stream: ServerStream, priority: int, why: str, wait: float) -> None:
        """Refuse a call because the server is overloaded."""
        if self._pipeline.sees_errors:
            self.refusals.count(stream, priority, why)
            self.fail(stream, overload_error(why, retry_after(wait)))
        else:
            stream.failed = True
            self.refusals.refuse(stream, priority, why, wait)

    def fail(self, stream: ServerStream, exc: BaseException, *, began: bool = False) -> None:
        """Tell the caller how the call ended. Only this method turns an exception into a Reset.

        What a handler raises ends its call and nothing else, `SystemExit` included: otherwise one
        bad argument would stop one server after another, as callers retry.

        Args:
            stream: The call.
            exc: The exception that ended it.
            began: Whether the handler has run. It has also if `stream.began` is set.

        Raises:
            KeyboardInterrupt: The user has pressed Ctrl-C.
        """
        if is_ctrl_c(exc) or self._loop.is_closed():
            raise exc
        stream.failed = True
        if isinstance(exc, InvalidArgument) and hasattr(stream, "route") and not stream.began:
            handler, _, header, *_ = stream.route
            exc = missing_processor(handler.method, header, self._pipeline.reads) or exc
        if not isinstance(exc, CallError):
            self._log_exception(stream, exc)
        elif exc.code is Code.INTERNAL:
            self._log.error("%s", one_line(exc), extra=self._log_fields(stream, exc.code))
        code, message, details = error_reply(exc, debug=self._debug, warn=self._log.warning)
        # A handler may pass on an error of a call that it made, and that went unserved.
        unserved = isinstance(exc, CallError) and exc.unserved and not (began or stream.began)
        if not self._expose_errors and code in _INNER and not unserved:
            message, details = self._conceal(stream, exc, details)
        if stream.metadata is not None:
            details = _with_metadata(details, stream.metadata, stream.conn.peer_limits.max_frame)
        if self._pipeline.sees_errors and hasattr(stream, "handler"):
            try:
                seen = self._pipeline.error(stream.as_call(), (code, message, details))
                code, message, details = Code(seen[0]), seen[1], seen[2]
            except BaseException as failure:  # of a processor of the user
                if is_ctrl_c(failure):
                    raise
                text = "process_error of a processor failed"
                self._log.exception(text, exc_info=compact(failure))
                code, message, details = Code.INTERNAL, "a processor failed", {}
        stream.refuse(code, message, details, UNSERVED if unserved else 0)

    def give_up(self, stream: ServerStream) -> None:
        """End a call because the server shuts down."""
        text = "the server is shutting down"
        if stream.has_begun:
            text += f", and has ended {stream.method} (option close_timeout)"
        error = Unavailable(text, unserved=not stream.has_begun)
        self.fail(stream, error)
        stream.fail(error)

    def keep_task(self, stream: ServerStream, task: asyncio.Task[None]) -> None:
        """Keep a reference to a cancelled task until it ends, as its stream is gone."""
        error = stream.error
        is_late = error is not None and error.code is Code.DEADLINE_EXCEEDED
        if is_late and not stream.is_excused:
            self.entrances.expire(stream)
        self._orphans.add(task)
        task.add_done_callback(self._orphans.discard)

    async def close(self) -> None:
        """Wait for cancelled handlers; call it when the connections are closed."""
        self._threads.close()
        self.refusals.close()
        if self._orphans:
            _, deaf = await asyncio.wait(self._orphans, timeout=_CANCEL_GRACE)
            for task in deaf:
                self._log.error("%r still runs %g s after it was cancelled", task, _CANCEL_GRACE)

    def _route(self, stream: ServerStream, meta: bytes) -> Route:
        """Return the route that an Open asks for, and cache it by the bytes of the Open.

        The calls of all clients with the same Open get the same header, so a header with a value
        that a handler could change is not cached.
        """
        method, timeout_ms, header = _read_open(meta)
        handler = self._router.find(method)  # privacy is checked per call
        if handler is None:
            raise self._unknown(stream, method, header)
        limit = timeout_ms / 1000.0 if timeout_ms else handler.default_timeout
        limit = min(limit, handler.run_timeout)
        run, entrance = self._runner(handler, header), self.entrances.of(handler)
        route = (handler, limit, header, run, entrance)
        if len(meta) <= _MAX_ROUTE and not any(
            isinstance(value, list | dict) for value in header.values()
        ):
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[meta] = route
        else:
            stream.header_size = decoded_size(meta)
        return route

    def _allow_hint(self) -> bool:
        now = self._monotonic()
        if self._hints is None:
            self._hints = TokenBucket(_HINTS, now)
        return self._hints.allow(now)

    def _unknown(self, stream: ServerStream, method: str, header: Header) -> CallError:
        """Return the error of a call to a function that does not exist, or is hidden."""
        sees_private = FORWARDED not in header and stream.conn.peer.is_local
        # A processor that seals errors has not verified this peer: it learns no names.
        hints = not self._pipeline.sees_errors and self._allow_hint()
        return self._router.unknown(method, sees_private=sees_private, hints=hints)

    def _runner(self, handler: Handler, header: Header) -> Run | None:
        """Return the function that runs a handler, so that calls need not choose it."""
        run = self._plain_runner(handler, header)
        return run if self._around is None else self._around(run or self._run_processed)

    def _plain_runner(self, handler: Handler, header: Header) -> Run | None:
        if self._middleware is not None and handler.has_one_response:
            return self._run_through_middleware
        if handler.stream_type is not _UNARY:
            return self._run_messages
        if not self._pipeline.empty and not self._pipeline.ignores(header):
            return self._run_processed
        function = handler.function
        if function.is_async and not function.has_keywords:
            return self._run_unary
        is_quick = handler.inline and function.slow_from == NEVER_SLOW
        return None if is_quick else self._run_processed

    def _run_inline(self, stream: ServerStream) -> None:
        handler = stream.handler
        function = handler.function
        token = current.set(stream)
        try:
            args, kwargs = function.decode_call(stream.body)
            result = handler.func(*args, **kwargs) if kwargs else handler.func(*args)
            body = function.encode_result(result)
            if stream.metadata is None:
                stream.conn.send_response(stream, body)
            else:
                stream.conn.send_data(stream, _RESPONSE, pack(stream.last_header()), body)
        except BaseException as exc:  # the end of the call
            self.fail(stream, exc, began=True)
        finally:
            current.reset(token)

    async def _run_unary(self, stream: ServerStream) -> None:
        """Run an async handler without processors; `_run_processed` is the general form."""
        if len(stream.body) > stream.handler.function.slow_from:
            await self._run_processed(stream)
            return
        try:
            if stream.deadline <= self._monotonic():
                self.fail(stream, _too_late(stream))
                return
            _set_current(stream)
            handler = stream.handler
            function = handler.function
            result = await handler.func(*function.decode_args(stream.body))
            body = function.encode_result(result)
            if stream.metadata is None:
                stream.conn.send_response(stream, body)
            else:
                stream.conn.send_data(stream, _RESPONSE, pack(stream.last_header()), body)
        except asyncio.CancelledError:
            self._on_cancelled(stream)
            raise
        except BaseException as exc:  # the end of the call
            self.fail(stream, exc, began=True)
        finally:
            stream.task = None  # its context refers to the stream: do not leave a reference cycle

    async def _run_processed(self, stream: ServerStream) -> None:
        """Run a unary handler through the processors."""
        try:
            if stream.deadline <= self._monotonic():
                raise _too_late(stream)
            _set_current(stream)
            call = stream.as_call()
            handler = stream.handler
            function = handler.function
            pipeline = self._pipeline
            with pipeline.scope(call):
                content = stream.body
                if pipeline.transforms:
                    await stream.reserve_inflated(call.header)
                    request = await pipeline.pass_request(call, content, call.header)
                    stream.processed = request
                    content = pipeline.encode_arrived(request)
                    if content is not stream.body:
                        stream.note_decoded(content)
                if len(content) > function.slow_from or stream.inflated > _THREADED:
                    args, kwargs = await self._threads.decode(
                        stream.conn, function.decode_call, content
                    )
                else:
                    args, kwargs = function.decode_call(content)
                stream.began = True
                if function.is_async:
                    result = await (
                        handler.func(*args, **kwargs) if kwargs else handler.func(*args)
                    )
                elif handler.inline:
                    result = handler.func(*args, **(kwargs or {}))
                else:
                    result = await self._threads.run(handler.func, args, kwargs)
                body = function.encode_result(result)
                # `encode_response`, unrolled.
                header = None if stream.metadata is None else stream.last_header()
                if pipeline.transforms:
                    response = await pipeline.pass_response(call, body, header)
                    header, body = response.header, encode_body(response)
                meta = pack(header) if header else b""
            if meta:
                stream.conn.send_data(stream, _RESPONSE, meta, body)
            else:
                stream.conn.send_response(stream, body)
        except asyncio.CancelledError:
            self._on_cancelled(stream)
            raise
        except BaseException as exc:  # the end of the call
            self.fail(stream, exc)
        finally:
            stream.task = None  # its context refers to the stream: do not leave a reference cycle

    async def _run_through_middleware(self, stream: ServerStream) -> None:
        """Run a handler with one response through processors and message middleware."""
        assert self._middleware is not None
        began, size = self._middleware.monotonic(), 0
        error: BaseException | None = None
        try:
            if stream.deadline <= began:
                raise _too_late(stream)
            _set_current(stream)
            size = await self._serve_unary(stream, self._middleware)
        except asyncio.CancelledError as exc:
            error = stream.error or exc
            self._on_cancelled(stream)
            raise
        except BaseException as exc:  # the end of the call
            error = exc
            self.fail(stream, exc)
        finally:
            stream.task = None  # its context refers to the stream: do not leave a reference cycle
            self._middleware.answered(stream, error, began, size)

    async def _serve_unary(self, stream: ServerStream, middleware: UnaryMiddleware) -> int:
        """Serve a call with one response; return its bytes."""
        call = stream.as_call()
        pipeline = self._pipeline
        with pipeline.scope(call):
            args, kwargs = await stream.begin(pipeline, self._threads)
            request = stream.processed
            if request is None:
                request = stream.processed = Request(call, _as_body(args, kwargs), call.header)
            if stream.handler.reads_stream:
                args, kwargs = self._streaming.with_requests(stream, (args, kwargs))
            result = await middleware.run(stream, request, args, kwargs)
            body = stream.handler.function.encode_result(result)
            meta, body = await encode_response(stream, pipeline, body)
        stream.conn.send_data(stream, _RESPONSE, meta, body)
        if stream.handler.reads_stream:
            await stream.finish()
        return len(body)

    async def _run_messages(self, stream: ServerStream) -> None:
        """Run a function of any other stream type than unary."""
        try:
            if stream.deadline <= self._monotonic():
                raise _too_late(stream)
            _set_current(stream)
            with self._pipeline.scope(stream.as_call()):
                await self._streaming.serve(stream)
        except asyncio.CancelledError:
            self._on_cancelled(stream)
            raise
        except BaseException as exc:  # the end of the call
            self.fail(stream, exc)
        finally:
            stream.task = None  # its context refers to the stream: do not leave a reference cycle

    def _on_cancelled(self, stream: ServerStream) -> None:
        """Tell the caller that the handler was cancelled, unless the caller has given up itself."""
        if stream.state != CLOSED:
            self.fail(stream, CallError("the handler was cancelled", code=Code.CANCELLED))

    def _conceal(
        self, stream: ServerStream, exc: BaseException, details: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """Return message and details of an error that callers may not see; log what is not yet."""
        fields = self._log_fields(stream, exc.code if isinstance(exc, CallError) else Code.UNKNOWN)
        trace_id = fields["trace_id"] if fields else ""
        if isinstance(exc, CallError) and exc.code is not Code.INTERNAL:
            what = fields["method"] if fields else "a call"
            self._log.warning("%s failed: %s", what, one_line(exc, _MAX_LOGGED), extra=fields)
        kept = {name: details[name] for name in ("retry_after",) if name in details}
        return "the function failed" + (f" (trace {trace_id})" if trace_id else ""), kept

    def _log_exception(self, stream: ServerStream, exc: BaseException) -> None:
        """Log what a handler raised, with its traceback."""
        level = self._exception_level
        if level is not None and self._log.isEnabledFor(level):
            extra = self._log_fields(stream, Code.UNKNOWN)
            what = extra["method"] if extra else "a call"
            text = repr_of(exc, _MAX_LOGGED)
            shown = compact(exc)
            self._log.log(level, "%s raised %s", what, text, exc_info=shown, extra=extra)

    def _log_fields(self, stream: ServerStream, code: Code) -> dict[str, Any] | None:
        """Return the fields of a log record; `None` if it is unknown what was called."""
        if not hasattr(stream, "route"):
            return None
        limit = stream.route[1]
        seconds = None if limit == NEVER else self._monotonic() - (stream.deadline - limit)
        return log_fields(stream.as_call(), code, seconds)


async def encode_response(
    stream: ServerStream, pipeline: Pipeline, body: bytes
) -> tuple[bytes, bytes]:
    """Return header and body of the only response after the processors have seen it."""
    header = stream.last_header() if stream.metadata is not None else {}
    if pipeline.transforms:
        response = await pipeline.pass_response(stream.as_call(), body, header)
        header, body = response.header, encode_body(response)
    return pack(header) if header else b"", body


def error_reply(
    exc: BaseException, *, debug: bool, warn: Callable[[str], object]
) -> tuple[Code, str, dict[str, Any]]:
    """Return code, message and details of the Reset for an exception.

    Args:
        exc: The exception that ended the call. Its text and details come from the application and
            may be anything, so they are cut to what can be sent.
        debug: Add the traceback.
        warn: Told why the fields of an error cannot be sent.
    """
    kind = type(exc).__name__
    try:
        fields = sent_fields(exc, warn) if isinstance(exc, CallError) else None
        code, message, details = encode_error(exc, fields, debug=debug)
    except Exception:  # of a user's `__str__` or details; the message says so
        return Code.UNKNOWN, f"{kind}, whose text cannot be made", {"type": kind}
    if debug:
        text = details["traceback"][-_MAX_TRACEBACK:]
        details["traceback"] = text.encode("ascii", "backslashreplace").decode()[-_MAX_TRACEBACK:]
    if not _can_be_sent(details):
        # The details of a `CallError` are the application's, and may have any value for `type`.
        if not isinstance(exc, CallError) or isinstance(exc, HandlerError):
            details = {name: details[name] for name in ("type", "bases") if name in details}
        elif isinstance(details.get(RAISED), dict):
            details = {"type": details["type"], RAISED: {}}
        else:
            details = {}
        message += " (with details that cannot be sent)"
    encoded = message.encode("utf-8", "backslashreplace")
    return code, encoded[:_MAX_MESSAGE].decode("utf-8", "ignore"), details


def missing_processor(
    method: str, header: Header, known: Collection[str]
) -> InvalidArgument | None:
    """Return the error of a call whose body only a processor could read that is not loaded.

    Args:
        method: The function that was called.
        header: The header of the call, which says how its body was transformed.
        known: Headers that the processors of this server read.
    """
    for name, (how, processor) in _TRANSFORMED.items():
        if name in header and name not in known:
            return InvalidArgument(
                f"{method}: the call is {how}, and this server has no {processor}: "
                f"load one into the server, or none into the client"
            )
    return None


def _running(stream: ServerStream) -> Iterator[Running]:
    """Yield the calls of a function that run on the same connection as one of them."""
    for each in stream.conn.streams.values():
        if isinstance(each, ServerStream) and each.task is not None:
            handler, limit, *_ = each.route
            if handler is stream.handler:
                yield each, each.task, each.deadline - limit


def _too_late(stream: ServerStream) -> DeadlineExceeded:
    """Return the error of a call whose deadline has passed before its handler began."""
    limit = stream.route[1]
    text = f"{stream.method}: {limit:g} s had passed when its handler could begin"
    return DeadlineExceeded(text, unserved=True)


def _can_be_sent(details: dict[str, Any]) -> bool:
    try:
        return _is_readable(details) and len(pack(details)) <= _MAX_DETAILS
    except ValueError:
        return False


def _is_readable(details: dict[str, Any]) -> bool:
    """Return whether a client takes a Reset with these details."""
    try:
        read_reset(pack([0, "", details]))
    except ValueError:
        return False
    return True


def _as_body(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> list[Any]:
    """Return arguments as the body of a request shows them."""
    return [list(args), dict(kwargs)] if kwargs else list(args)


def _fits(handler: Handler, flags: int) -> bool:
    """Return whether the Open is of the handler's stream type."""
    sent = flags & _RESPONSE
    if handler.stream_type is _CHANNEL:
        return sent != _RESPONSE
    return sent == (MESSAGE if handler.reads_stream else _RESPONSE)


def _with_value(what: str, values: Header, name: str, value: Any, other: Header) -> Header:
    """Return the values of a header or trailer with one more; one message may have both.

    Raises:
        ValueError: The name is reserved or not a text, the value is not msgpack, or all of them
            are too large, or too many for one message.
    """
    if not isinstance(name, str) or not name or name.startswith(":"):
        raise ValueError(f"{what}: a name is text without a colon at its start, got {name!r}")
    new = {**values, name: value}
    try:
        size = len(pack(new))
        unpack(pack([new, other]), max_elements=_MAX_METADATA_VALUES)
    except ValueError as exc:
        raise ValueError(f"{what} {name!r}: {exc}") from exc
    if size > _MAX_METADATA:
        raise ValueError(f"{what} {name!r}: {size} bytes in all, the limit is {_MAX_METADATA}")
    return new


def _with_metadata(
    details: dict[str, Any], metadata: ResponseMetadata, max_frame: int
) -> dict[str, Any]:
    """Return the details of a Reset with header and trailer, as far as the client takes them."""
    room = max_frame - _MAX_MESSAGE - _MAX_DETAILS
    for name, values in reversed(metadata.as_details().items()):
        size = len(pack(values))
        more = {**details, name: values}
        if size <= room and _is_readable(more):
            room -= size
            details = more
    return details


def _read_open(meta: bytes) -> tuple[str, int, Header]:
    try:
        match unpack_header(meta):
            case [str(method), int(timeout_ms)] if timeout_ms >= 0:
                return method, timeout_ms, {}
            case [str(method), int(timeout_ms), dict(header)] if timeout_ms >= 0:
                return method, timeout_ms, header
    except ValueError as exc:
        raise InvalidArgument(f"a malformed Open: {exc}") from exc
    raise InvalidArgument("an Open must name [method, timeout_ms] or [method, timeout_ms, header]")
