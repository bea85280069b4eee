"""One attempt of a call: a pick, the request as the processors send it, and a stream.

Most calls are one attempt. `rap.client.call` makes further ones after a failure, and
`rap.client.hedging` a second one at the same time. Two hot paths have `AttemptFactory.start_unary`
and `AttemptFactory.succeed` unrolled: stubs (`rap.client.stub`), and `Invoker.call_with_retries`.
"""

import functools
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

from rap.call import Call, Encoded, Header, StreamType, inherited_from
from rap.client.cluster import Cluster
from rap.client.method import Method
from rap.client.node import Node
from rap.client.rescue import AttemptDoubted
from rap.client.session import Session
from rap.clock import LEAST_DELAY
from rap.errors import CallError, Code, DeadlineExceeded, HandlerError, Internal, Unimplemented
from rap.foreign import one_line
from rap.processor.base import Pipeline, encode_body
from rap.transport import Connection, Stream, UnaryStream
from rap.transport.stream import DEADLINE_PASSED, ITEMS_ARRIVED
from rap.wire.codec import unpack_map
from rap.wire.frames import END, MESSAGE

__all__ = [
    "AttemptFactory",
    "Pick",
    "StreamAttempt",
    "UnaryAttempt",
    "decode_response",
    "explain_deadline",
    "explain_end",
    "explain_failure",
    "explain_refusal",
]

_REQUEST = MESSAGE | END
_NIL = b"\xc0"  # as a body
Pick = tuple[Node, Connection]


class UnaryAttempt(UnaryStream):
    """An attempt of a unary call: the stream that it takes, and where that went.

    Attributes:
        method: What is called.
        call: The call as the processors of this attempt see it.
        node: Where the attempt went.
        started: When the attempt was sent, in seconds on the monotonic clock.
        doubted: Whether its server was suspected to be gone.
        is_late: Whether there was no answer for long.
    """

    method: Method
    call: Call
    node: Node
    started: float
    doubted = False
    is_late = False
    _on_doubt: Callable[[AttemptDoubted], object] | None = None
    _more_doubts: list[AttemptDoubted] | None = None  # before the caller has seen the first one

    def on_late(self) -> None:
        """Let the caller decide on a second attempt, once: there is no answer for long."""
        self.late_at, self.is_late = inf, True
        self._doubt(AttemptDoubted("late", is_late=True))

    def suspect(self, *, free: bool) -> None:
        """Let the caller decide on a second attempt: the server is suspected to be gone.

        Args:
            free: Whether the retry budget does not pay for it.
        """
        self.doubted = True
        self._doubt(AttemptDoubted("its server is suspected to be gone", free=free))

    def watch(
        self,
        done: Callable[[object], object],
        doubted: Callable[[AttemptDoubted], object],
    ) -> None:
        """Call `done` when `future` is, and `doubted` instead of raising a doubt in the caller."""
        self.future.add_done_callback(done)
        self._on_doubt = doubted
        for doubt in self._more_doubts or ():
            doubted(doubt)

    def unwatch(self, done: Callable[[object], object]) -> None:
        """Undo `watch`, or the attempt and its watcher keep each other alive."""
        self.future.remove_done_callback(done)
        self._on_doubt = None

    def adopt(self, method: Method, call: Call, node: Node, started: float) -> None:
        """Set what the hot paths leave out."""
        self.method, self.call, self.node, self.started = method, call, node, started

    @property
    def compared(self) -> Method | None:
        """What is called, if any node could get the call, so that nodes can be compared."""
        return self.method if self.call.affinity is None else None

    def _doubt(self, doubt: AttemptDoubted) -> None:
        if self.future.done():
            return
        if self._on_doubt is not None:
            self._on_doubt(doubt)
        elif self._more_doubts is not None:
            self._more_doubts.append(doubt)
        else:
            # The caller waits for the future of an attempt that goes on.
            self._more_doubts = []
            waiting, self.future = self.future, self.conn.new_future()
            waiting.set_exception(doubt)

    def cancel(self, why: str) -> None:
        """Cancel the attempt on the wire; nothing happens if it has ended."""
        self.conn.reset(self, Code.CANCELLED, why)


class StreamAttempt(Stream):
    """An attempt of a streaming call, likewise.

    Attributes:
        node: Where the attempt went.
        started: When the attempt was sent, in seconds on the monotonic clock.
    """

    node: Node
    started: float

    _tell_late: "Callable[[StreamAttempt], object] | None" = None

    def allow_rescue(
        self, late_at: float = inf, tell: "Callable[[StreamAttempt], object] | None" = None
    ) -> None:
        """Let it be given up before its first message, if its server is suspected to be gone.

        Args:
            late_at: When to call `tell` if there is no message, in seconds on the monotonic clock.
            tell: Called with the attempt; may give it up.
        """
        self.late_at = late_at
        self._tell_late = tell

    def on_late(self) -> None:
        """Ask whether to give up: there is no message for long."""
        self.late_at = inf
        if self._tell_late is not None and self.first_meta is None:
            self._tell_late(self)

    def give_up(self, why: str) -> None:
        """End an attempt without a message; the call is made again.

        Args:
            why: The reason, for the server.
        """
        self.conn.reset(self, Code.CANCELLED, why)
        self.fail(AttemptDoubted(why, ended=True))


class AttemptFactory:
    """Makes the attempts of a client's calls.

    Args:
        cluster: Picks the nodes.
        pipeline: The processors of the client.
        monotonic: Returns the time in seconds on the monotonic clock.
    """

    def __init__(
        self, cluster: Cluster, pipeline: Pipeline, monotonic: Callable[[], float]
    ) -> None:
        self.cluster = cluster
        self.pipeline = pipeline
        self.monotonic = monotonic
        self._waiters = cluster.waiters

    def pick(self, call: Call, session: Session | None, exclude: frozenset[str]) -> Pick | None:
        """Return a node and a connection that take the call now; `None` if it has to wait.

        Args:
            call: The call.
            session: Its session, which has the only connection that is possible.
            exclude: Ids of nodes to avoid, unless there is no other.

        Raises:
            CallError: The session was not entered, was left, or has lost its connection.
        """
        if session is not None:
            return session.bound()
        node = self.cluster.pick(call.affinity, exclude)
        if node is not None:
            conn = node.pool.conn
            if conn is not None and conn.usable:
                if len(conn.streams) < conn.peer_limits.max_streams:
                    return node, conn
        return None

    def place_stream(self, pick: Pick, exclude: frozenset[str]) -> Pick:
        """Return where a stream goes: elsewhere, if there are fewer of them; see `Cluster`."""
        node = self.cluster.place_stream(pick[0], exclude)
        conn = node.pool.conn
        return pick if node is pick[0] or conn is None or not conn.usable else (node, conn)

    def wait_for_pick(self, call: Call, exclude: frozenset[str]) -> Coroutine[Any, Any, Pick]:
        """Return a node and a connection; wait for them as long as the call wants.

        Raises:
            CallError: See `Cluster.acquire`.
        """
        waiting = self.cluster.acquire(
            call.deadline, call.affinity, exclude, call.method, call.wait_for_ready
        )
        return waiting if call.retried is None else self._wait_again(call, waiting)

    async def _wait_again(self, call: Call, waiting: Coroutine[Any, Any, Pick]) -> Pick:
        try:
            return await waiting
        except CallError as error:
            call.explain_attempts(error, call.attempt + 1, self.monotonic())
            raise

    def pick_alive(self, call: Call, exclude: frozenset[str], usual: float | None) -> Pick | None:
        """Return a node for one more attempt of a call while another one is open.

        It is a node that is known to be alive, so long as half of the time that is left is enough
        for it. So where all servers are slow, no second attempts add to their load.

        Args:
            call: The call.
            exclude: Ids of nodes that do not come into question.
            usual: Seconds that the function usually takes; `None`: unknown.
        """
        within = (call.deadline - self.monotonic()) / 2
        if within <= 0.0 or (usual is not None and usual > within):
            return None
        node = self.cluster.pick_alive(call.affinity, exclude, within)
        if node is None or node.pool.conn is None:
            return None
        return node, node.pool.conn

    def start_unary(
        self,
        method: Method,
        call: Call,
        pick: Pick,
        body: bytes,
        number: int,
        header: Header | None = None,
    ) -> UnaryAttempt:
        """Send one attempt of a unary call; its `future` has the outcome.

        Args:
            method: What is called.
            call: The call.
            pick: Where the attempt goes.
            body: The encoded arguments.
            number: 1 for the first attempt of the call.
            header: From `transform_and_start`, if processors transform messages.

        Raises:
            CallError: Nothing was sent: the deadline has passed, or the header cannot be encoded.
        """
        node, conn = pick
        now = self.monotonic()
        if header is None:
            call.start_attempt(number, conn.peer, now)
            header = call.header if number == 1 else {**call.header, ":attempt": number}
        meta = method.open_meta(call.deadline, now, header)
        attempt = UnaryAttempt(conn, call.deadline)
        attempt.adopt(method, call, node, now)
        attempt.late_at = inf  # only calls that may be made twice come here
        if self.pipeline.sees_errors:
            attempt.on_error(functools.partial(self.pipeline.error, call))
        node.stats.started(now)
        try:
            conn.open_unary(attempt, meta, body)
        except CallError as error:
            attempt.fail(error)
        return attempt

    async def transform_and_start(
        self, method: Method, call: Call, pick: Pick, body: bytes, number: int
    ) -> UnaryAttempt:
        """Do the same after the processors have seen the request.

        Raises:
            CallError: As for `start_unary`, or a processor refuses the request.
        """
        call.start_attempt(number, pick[1].peer, self.monotonic())
        header = call.header if number == 1 else {**call.header, ":attempt": number}
        request = await self.pipeline.pass_request(call, body, dict(header))
        return self.start_unary(method, call, pick, encode_body(request), number, request.header)

    async def start_stream(
        self, method: Method, call: Call, pick: Pick, body: bytes | None, number: int
    ) -> StreamAttempt:
        """Open one attempt of a streaming call; its `error` says why if that fails.

        Args:
            method: What is called.
            call: The call.
            pick: Where the attempt goes.
            body: The encoded arguments; `None` for a channel without arguments.
            number: 1 for the first attempt of the call.

        Raises:
            CallError: As for `transform_and_start`.
        """
        node, conn = pick
        call.start_attempt(number, conn.peer, self.monotonic())
        header = call.header if number == 1 else {**call.header, ":attempt": number}
        content, flags = body or b"", 0
        if body is not None:
            flags = _REQUEST
            if call.stream_type.client_streams:
                flags = MESSAGE
                if not conn.peer_has("outcome"):
                    return _refused(call, pick, self.monotonic())
        pipeline = self.pipeline
        if pipeline.transforms:
            request = await pipeline.pass_request(call, body or _NIL, dict(header))
            header, passed = request.header, encode_body(request)
            if body is not None or passed != _NIL:  # a processor may add a body
                content = passed
                flags |= MESSAGE
        now = self.monotonic()
        meta = method.open_meta(call.deadline, now, header)
        attempt = StreamAttempt(conn)
        attempt.node, attempt.started = node, now
        attempt.set_deadline(call.deadline)
        if pipeline.sees_errors:
            attempt.on_error(functools.partial(pipeline.error, call))
        try:
            conn.open(attempt, flags, meta, content)
        except CallError as error:
            attempt.fail(error)
        return attempt

    def succeed(self, attempt: UnaryAttempt) -> None:
        """Account for an attempt that was answered with a result."""
        attempt.node.record_result(attempt.started, None, attempt.compared)
        if self._waiters:
            self.cluster.release()

    def fail(self, attempt: UnaryAttempt, error: BaseException) -> None:
        """Account for an attempt that failed, or was cancelled."""
        deadline = attempt.call.deadline
        attempt.node.record_result(attempt.started, error, attempt.compared, deadline)
        if self._waiters:
            self.cluster.release()

    def overtake(self, attempt: UnaryAttempt) -> None:
        """Account for an attempt that is still open when another one has been answered.

        An attempt that was late counts as if its deadline had passed. Without its copy it would
        have, and servers that hang have to be found although no call fails.
        """
        if attempt.is_late and not attempt.doubted:
            error = DeadlineExceeded("another attempt was answered first")
            attempt.node.record_result(attempt.started, error, attempt.compared)
        else:
            attempt.node.record_overtaken(attempt.started)
        if self._waiters:
            self.cluster.release()


def explain_end(error: CallError, call: Call, stream: StreamAttempt, now: float) -> None:
    """Make the error with which an attempt has ended a call say what it is about.

    Args:
        error: How the attempt failed.
        call: The call.
        stream: The attempt.
        now: When it failed, in seconds on the monotonic clock.
    """
    if isinstance(error, DeadlineExceeded):
        explain_deadline(error, call, stream.conn, stream.started, now)
    else:
        explain_failure(error, call, stream.conn)


def explain_failure(error: CallError, call: Call, conn: Connection) -> None:
    """Make an error say which function it is about, if only this side knows that.

    What a handler raised gets a note, as tracebacks show it: its text is that of the handler.

    Args:
        error: How the attempt failed.
        call: The call.
        conn: The connection of the attempt.
    """
    if error.message == ITEMS_ARRIVED:
        error.restate(f"{call.method}: {ITEMS_ARRIVED}")
    if hasattr(error, "__notes__"):
        return
    if isinstance(error, HandlerError):
        note = f"{call.method} raised it on {_server_of(conn)}, whose log has the traceback"
        kind = error.details.get("type") if type(error) is HandlerError else None
    elif error.type_name:
        kind = error.type_name
        note = f"{call.method} raised {one_line(kind)} on {_server_of(conn)}"
    else:
        return
    if isinstance(kind, str) and kind.isidentifier():
        note += f"; to catch it as its class: client.load_exception([{one_line(kind)}])"
    error.add_note(note)


def explain_deadline(
    error: DeadlineExceeded, call: Call, conn: Connection, started: float, now: float
) -> None:
    """Make an error say which call was late, on which server, what it waited for and how long.

    Args:
        error: How the attempt failed; `unserved` if it was never sent.
        call: The call.
        conn: The connection of the attempt.
        started: When the attempt was made, in seconds on the monotonic clock.
        now: When it failed, likewise.
    """
    server = _server_of(conn)
    if error.message != DEADLINE_PASSED:
        is_told = server in error.message  # by the attempt, before the stream tells it
        if error.remote and error.message.startswith(f"{call.method}: ") and not is_told:
            text = f"{error.message} on {server}"  # which the server does not know
            error.restate(f"{text}; {_more_time(call, error.message)}")
        return
    if error.unserved:
        what = f"{server} reads too slowly, the request was not sent"
    elif call.stream_type is StreamType.UNARY:
        what = f"no answer from {server}"
    else:
        what = f"{server} did not finish"
    limit = call.deadline - started
    # The call began a little before this attempt, so it is not told more exactly.
    digits = 3 if limit >= 0.1 else 2 if limit >= 0.01 else 1
    text = f"{call.method}: {what} within {limit:.{digits}g} s"
    if now - call.deadline >= max(LEAST_DELAY / 2, limit / 10):
        text += f", noticed after {now - started:.3g} s"
    if conn.suspect:
        text += f" (it has sent nothing for {conn.silence:.3g} s)"
        error.restate(f"{text}; it may be frozen, blocked or cut off: look at that process")
        return
    error.restate(f"{text}; {_more_time(call, text)}")


def _more_time(call: Call, text: str) -> str:
    """Return what to do to give a call more time whose error has this text."""
    if "run_timeout of" in text and "default run_timeout" not in text:
        return "register the function with a longer run_timeout="
    if outer := inherited_from(call.deadline):
        return f"the deadline of {outer} left no more: call that with a longer timeout="
    return "call it with a longer timeout="


def explain_refusal(error: CallError, path: str, conn: Connection) -> None:
    """Make the error of a call that was refused say which server has refused it.

    Args:
        error: The refusal.
        path: Name of the function, ``/group/name``.
        conn: The connection of the attempt.
    """
    if not error.message.startswith(path):
        error.restate(f"{path} on {_server_of(conn)}: {error.message}")


def _server_of(conn: Connection) -> str:
    service = conn.peer_hello.get("service")
    return f"{conn.peer} of service {service!r}" if service else str(conn.peer)


async def decode_response(
    pipeline: Pipeline, call: Call, meta: bytes, raw: Encoded, *, batch: int = 0
) -> Encoded:
    """Return the body of a response after the processors have seen it.

    The header ``:batch`` tells them that the body is a list of items of a generator.

    Raises:
        Internal: The header of the response is malformed.
    """
    try:
        header = unpack_map(meta) if meta else {}
    except ValueError as exc:
        raise Internal(f"{call.method}: a malformed header: {exc}") from exc
    if batch:
        header[":batch"] = True
    return pipeline.encode_arrived(await pipeline.pass_response(call, raw, header))


def _refused(call: Call, pick: Pick, now: float) -> StreamAttempt:
    """Return the attempt of a call that a server of an older release would misunderstand."""
    node, conn = pick
    attempt = StreamAttempt(conn)
    attempt.node, attempt.started = node, now
    what = "arguments of channels" if call.stream_type is StreamType.CHANNEL else "request streams"
    text = f"{call.method}: {conn.peer} has an older release of rap, which has no {what}"
    attempt.fail(Unimplemented(text, unserved=True))
    return attempt
