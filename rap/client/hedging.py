"""A call that may be sent twice: where the first copy is late, a second goes to another server.

The first answer counts, and the other copy is cancelled on the wire. To its server's health that is
nothing; to its latency it is an answer that took as long, or servers that stall would look well for
being cancelled in time. Both copies have header, deadline and scope in common; what transforms
messages sees each as an attempt of its own. While one copy is open, a failure of the other that can
be retried does no harm; where both fail so, the call goes on as any other
(`Invoker.call_with_retries`).
"""

import asyncio
import functools
from typing import TYPE_CHECKING

from rap.call import Call, Request, current
from rap.client.method import Method
from rap.client.node import Node
from rap.client.retry import Attempt, is_retryable, serves_retry
from rap.errors import CallError, Code, Verdict
from rap.schema.function import decode_any, encode_any
from rap.transport import Connection, UnaryStream
from rap.transport.rate_limit import TokenBucket

if TYPE_CHECKING:
    from rap.client.call import Invoker

__all__ = ["hedged"]

_MOST_CANCELS = 50  # a second on one connection; a server takes twice as many by default
_CANCELS = "hedges"  # in the state of a connection


async def hedged(invoker: "Invoker", method: Method, call: Call, body: bytes) -> bytes | memoryview:
    """Return the raw answer of an idempotent unary call.

    Raises:
        CallError: It failed.
    """
    race = _Race(invoker, method, call, body)
    try:
        await race.start()
        winner = await race.winner()
    finally:
        race.end()
    if isinstance(winner, CallError):
        node, conn = race.last.node, race.last.conn
        await invoker.prepare_retry(method, call, None, node, conn, race.attempt, winner)
        return await invoker.call_with_retries(method, call, None, body, race.attempt)
    raw = winner.stream.future.result()
    if invoker.pipeline.transforms:
        raw = await invoker.decode_response(winner.call, winner.stream.meta, raw)
    call.attempt, call.peer, call.state = race.attempt.count, winner.call.peer, winner.call.state
    return raw


class _Copy:
    """One copy of a call, sent.

    Args:
        call: As those see it who transform its messages.
        node: Where it went.
        stream: Has its answer.
        began: When it was sent, in seconds on the monotonic clock.
    """

    __slots__ = ("began", "call", "conn", "node", "stream")

    def __init__(self, call: Call, node: Node, stream: UnaryStream, began: float) -> None:
        self.call = call
        self.node = node
        self.conn = stream.conn
        self.stream = stream
        self.began = began

    @property
    def error(self) -> CallError | None:
        """How it failed; `None` if it did not, or not yet."""
        future = self.stream.future
        error = future.exception() if future.done() else None
        assert isinstance(error, CallError | None)  # see `UnaryStream`
        return error

    def end(self, now: float, beaten: bool) -> None:
        """Account for it, and cancel it if it is still open, for `beaten` by the other one."""
        node = self.node
        if self.stream.future.done():
            node.record_result(self.began, self.error)
            return
        if beaten:
            waited = now - self.began
            node.stats.failed(now, waited, Verdict.FAILURE, waited)  # costs that and no more
            node.breaker.record(Verdict.IGNORED, now)
        else:
            node.record_result(self.began, asyncio.CancelledError())
        self.conn.reset(self.stream, Code.CANCELLED, "its answer is not needed any more")


class _Race:
    """The copies of one call.

    Attributes:
        attempt: Counts them.
        last: The one that has failed last.
    """

    last: _Copy

    def __init__(self, invoker: "Invoker", method: Method, call: Call, body: bytes) -> None:
        assert method.hedge is not None
        self.attempt = Attempt()
        self._invoker = invoker
        self._method = method
        self._hedge = method.hedge
        self._call = call
        self._body = body
        self._first: _Copy
        self._open: list[_Copy] = []
        self._answered = False
        self._waiter: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Send the first copy, and the second if that is late and there may be one."""
        invoker, call = self._invoker, self._call
        place = invoker.pick(call, None, None) or await invoker.wait_for_pick(call, None)
        self._first = first = await self._send(call, *place)
        delay = self._hedge.delay(first.began)
        if delay is None or await self._ended(delay):
            return
        self.attempt.exclude = frozenset((first.node.key,))
        second = self._second_place()
        if second is not None:
            self.attempt.count = 2
            await self._send(_copy_of(call), *second)

    async def winner(self) -> _Copy | CallError:
        """Return the copy that is answered first, or the error of the call."""
        while True:
            await self._ended()
            ended = [(copy.error, copy) for copy in self._open if copy.stream.future.done()]
            for error, copy in ended:
                if error is None:
                    self._answered = True
                    self._note_time()
                    self._leave(copy)
                    return copy
            for error, copy in ended:
                assert error is not None
                self._leave(copy)
                self.last = copy
                if not (self._open and is_retryable(error, idempotent=True)):
                    return error

    def end(self) -> None:
        """Cancel what is open."""
        for copy in self._open[:]:
            self._leave(copy)

    async def _send(self, call: Call, node: Node, conn: Connection) -> _Copy:
        invoker, method = self._invoker, self._method
        pipeline = invoker.pipeline
        now = invoker.start_attempt(call, conn, self.attempt)
        header, content = invoker.header(call), self._body
        if pipeline.transforms:
            request = await pipeline.request(Request(call, decode_any(content), dict(header)))
            header, content = request.header, encode_any(request.body)
            now = invoker.monotonic()
        stream = UnaryStream(conn, call.deadline)
        if pipeline.sees_errors:
            stream.see_error = functools.partial(pipeline.error, call)
        node.stats.started(now)
        copy = _Copy(call, node, stream, now)
        self._open.append(copy)
        stream.future.add_done_callback(self._wake)
        try:
            conn.open_unary(stream, method.open_meta(call.deadline, now, header), content)
        except CallError as error:
            stream.fail(error)
        return copy

    async def _ended(self, timeout: float | None = None) -> bool:
        """Return whether a copy has ended, within some seconds."""
        if self._any_ended():
            return True
        waiter = self._waiter = self._first.conn.new_future()
        timer = None
        if timeout is not None:
            timer = self._invoker.cluster.loop.call_later(timeout, self._wake)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
        return self._any_ended()

    def _any_ended(self) -> bool:
        for copy in self._open:  # a generator would take thrice as long
            if copy.stream.future.done():
                return True
        return False

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _second_place(self) -> tuple[Node, Connection] | None:
        """Return where a second copy goes; `None` if there is to be none."""
        invoker, hedge, first = self._invoker, self._hedge, self._first
        if not hedge.allows or invoker.policy.max_attempts < 2 or serves_retry(current.get()):
            return None
        place = invoker.pick(self._call, None, self.attempt)
        if place is None or place[0] is first.node:
            return None
        now, (node, conn) = invoker.monotonic(), place
        may_cancel = _may_cancel(first.conn, now) and _may_cancel(conn, now)
        if not (may_cancel and invoker.budget.take()):
            node.breaker.record(Verdict.IGNORED, now)  # its probe, if it was one, is not made
            return None
        invoker.budget.hedges += 1
        hedge.spend()
        return place

    def _note_time(self) -> None:
        """Note what the first copy took; if another one is answered first, that it took longer."""
        if self._first in self._open:
            now = self._invoker.monotonic()
            self._hedge.took(now - self._first.began, now)

    def _leave(self, copy: _Copy) -> None:
        self._open.remove(copy)
        copy.stream.future.remove_done_callback(self._wake)  # or they would keep each other
        copy.end(self._invoker.monotonic(), self._answered)
        cluster = self._invoker.cluster
        if cluster.waiters:
            cluster.freed()


def _copy_of(call: Call) -> Call:
    """Return a call with which a second copy can be sent while the first is open."""
    copy = Call(call.method, call.stream_type, call.side, call.header, call.deadline)
    copy.affinity = call.affinity
    copy.on_attempt = call.on_attempt
    copy.state = dict(call.state)
    return copy


def _may_cancel(conn: Connection, now: float) -> bool:
    """Whether a call on a connection may be cancelled; who cancels many is cut by servers."""
    bucket = conn.state.get(_CANCELS)
    if bucket is None:
        bucket = conn.state[_CANCELS] = TokenBucket(_MOST_CANCELS, now)
    return bool(bucket.allow(now))
