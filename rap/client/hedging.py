"""Hedged requests: where the first attempt of a call is late, a second goes to another server.

The first response counts, and the other attempt is cancelled on the wire. The cancellation says
nothing about the health of its server. As latency it counts like a response that took as long, or
servers that stall would look fast for being cancelled in time. Both attempts share header, deadline
and scope; processors that transform messages see each attempt on its own.

While one attempt is open, a failure of the other that can be retried does no harm. Where both fail
like that, the outcome is the last error, and the call goes on like any other (`rap.client.call`).
"""

import asyncio
from typing import NamedTuple

from rap.call import Call, running_call
from rap.client.attempt import AttemptFactory, Pick, UnaryAttempt
from rap.client.method import Method
from rap.client.retry import HedgePolicy, RetryPolicy, RetryState, is_retryable, serves_retry
from rap.errors import CallError
from rap.transport import Connection
from rap.transport.rate_limit import TokenBucket

__all__ = ["HedgedCall", "Outcome"]

_MAX_CANCELS = 50  # per second and connection; a server takes twice as many by default
_CANCELS = "hedges"  # key in the state of a connection


class Outcome(NamedTuple):
    """How a hedged call ended.

    Args:
        attempt: The attempt that was answered first, or the one that failed last.
        error: Why the call failed; `None` if it was answered.
    """

    attempt: UnaryAttempt
    error: CallError | None


class HedgedCall:
    """An idempotent unary call that may be attempted twice at the same time.

    Args:
        attempts: Makes the attempts.
        policy: Decides whether there is budget for a second one.
        method: What is called.
        call: The call.
        body: The encoded arguments.

    Attributes:
        state: Counts the attempts.
    """

    def __init__(
        self,
        attempts: AttemptFactory,
        policy: RetryPolicy,
        method: Method,
        call: Call,
        body: bytes,
    ) -> None:
        assert method.hedge is not None
        self.state = RetryState()
        self._attempts = attempts
        self._policy = policy
        self._method = method
        self._hedge: HedgePolicy = method.hedge
        self._call = call
        self._body = body
        self._first: UnaryAttempt
        self._open: list[UnaryAttempt] = []
        self._answered = False
        self._waiter: asyncio.Future[None] | None = None

    async def run(self) -> Outcome:
        """Return the outcome; what is open then, or when it is cancelled, is cancelled.

        Raises:
            CallError: There was no server for the first attempt, or an attempt could not be sent.
        """
        try:
            await self.start()
            return await self._first_outcome()
        finally:
            for attempt in self._open[:]:
                self._end(attempt)

    async def start(self) -> None:
        """Send the first attempt, and a second if that is late and the policies admit one."""
        attempts, call, state = self._attempts, self._call, self.state
        pick = attempts.pick(call, None, state.exclude)
        pick = pick or await attempts.wait_for_pick(call, state.exclude)
        self._first = first = await self._send(call, pick)
        delay = self._hedge.delay(first.started)
        if delay is None or await self._any_done_within(delay):
            return
        exclude = frozenset((first.node.key,))
        second = self._pick_second(exclude)
        if second is not None:
            state.next_attempt(exclude)
            await self._send(call.copy(), second)

    async def _send(self, call: Call, pick: Pick) -> UnaryAttempt:
        attempts, number = self._attempts, self.state.count
        if attempts.pipeline.transforms:
            start = attempts.transform_and_start
            attempt = await start(self._method, call, pick, self._body, number)
        else:
            attempt = attempts.start_unary(self._method, call, pick, self._body, number)
        self._open.append(attempt)
        attempt.future.add_done_callback(self._wake)
        return attempt

    def _pick_second(self, exclude: frozenset[str]) -> Pick | None:
        """Return where a second attempt goes; `None` if there is to be none."""
        hedge, first, policy = self._hedge, self._first, self._policy
        if not hedge.allows or policy.max_attempts < 2 or serves_retry(running_call()):
            return None
        pick = self._attempts.pick(self._call, None, exclude | self._attempts.cluster.refusing())
        if pick is None or pick[0] is first.node:
            return None
        now, (node, conn) = self._attempts.monotonic(), pick
        may_cancel = _may_cancel(first.conn, now) and _may_cancel(conn, now)
        is_refusing = node.refused_until > now  # as all others are
        if is_refusing or not (may_cancel and policy.budget.take_hedge()):
            node.cancel_probe(now)
            return None
        hedge.spend()
        return pick

    async def _first_outcome(self) -> Outcome:
        """Return when an attempt is answered, or the last one has failed."""
        while True:
            await self._any_done_within(None)
            done = [attempt for attempt in self._open if attempt.future.done()]
            for attempt in done:
                if _error_of(attempt) is None:
                    self._answered = True
                    self._record_time()
                    self._end(attempt)
                    return Outcome(attempt, None)
            for attempt in done:
                error = _error_of(attempt)
                assert error is not None
                self._end(attempt)
                if not (self._open and is_retryable(error, idempotent=True)):
                    return Outcome(attempt, error)

    async def _any_done_within(self, timeout: float | None) -> bool:
        """Return whether an attempt is done within some seconds; `None` waits for one."""
        if self._any_done():
            return True
        waiter = self._waiter = self._first.conn.new_future()
        timer = None
        if timeout is not None:
            timer = self._attempts.cluster.loop.call_later(timeout, self._wake)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
        return self._any_done()

    def _any_done(self) -> bool:
        for attempt in self._open:  # a generator expression takes three times as long
            if attempt.future.done():
                return True
        return False

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _record_time(self) -> None:
        """Record what the first attempt took; if the second one won, that it took longer."""
        if self._first in self._open:
            now = self._attempts.monotonic()
            self._hedge.record(now - self._first.started, now)

    def _end(self, attempt: UnaryAttempt) -> None:
        """Account for an attempt, and cancel it if it is still open."""
        self._open.remove(attempt)
        future = attempt.future
        future.remove_done_callback(self._wake)  # or the two keep each other alive
        if future.done():
            error = _error_of(attempt)
            if error is None:
                self._attempts.succeed(attempt)
            else:
                self._attempts.fail(attempt, error)
            return
        if self._answered:
            self._attempts.overtake(attempt)
        else:
            self._attempts.fail(attempt, asyncio.CancelledError())
        attempt.cancel("its answer is not needed any more")


def _error_of(attempt: UnaryAttempt) -> CallError | None:
    """Return how an attempt that is done failed; `None` if it was answered."""
    error = attempt.future.exception()
    assert isinstance(error, CallError | None)  # see `UnaryStream`
    return error


def _may_cancel(conn: Connection, now: float) -> bool:
    """Whether a call on a connection may be cancelled; servers cut clients that cancel many."""
    bucket = conn.state.get(_CANCELS)
    if bucket is None:
        bucket = conn.state[_CANCELS] = TokenBucket(_MAX_CANCELS, now)
    return bool(bucket.allow(now))
