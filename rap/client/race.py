"""Several attempts of one unary call that are open at the same time.

The first response counts, and the other attempts are cancelled on the wire. The cancellation says
nothing about the health of their servers. As latency it counts like a response that took as long,
or servers that stall would look fast for being cancelled in time. The attempts share header,
deadline and scope; processors that transform messages see each attempt on its own.

While one attempt is open, a failure of another that can be retried does no harm. Where all fail
like that, the outcome is the last error, and the call goes on like any other (`rap.client.call`).
"""

import asyncio
from collections import deque
from typing import NamedTuple

from rap.call import Call, running_call
from rap.client.attempt import AttemptFactory, Pick, UnaryAttempt
from rap.client.method import Method
from rap.client.rescue import AttemptDoubted
from rap.client.retry import RetryPolicy, RetryState, serves_retry
from rap.errors import CallError

__all__ = ["Outcome", "Race", "RescuedCall"]


class Outcome(NamedTuple):
    """How a call with several attempts ended.

    Args:
        attempt: The attempt that was answered first, or the one that failed last.
        error: Why the call failed; `None` if it was answered.
    """

    attempt: UnaryAttempt
    error: CallError | None


class Race:
    """The open attempts of an idempotent unary call.

    Args:
        attempts: Makes the attempts.
        policy: Decides whether one more is admitted.
        method: What is called.
        call: The call.
        body: The encoded arguments.
        state: Counts the attempts.
    """

    def __init__(
        self,
        attempts: AttemptFactory,
        policy: RetryPolicy,
        method: Method,
        call: Call,
        body: bytes,
        state: RetryState,
    ) -> None:
        self.state = state
        self._attempts = attempts
        self._policy = policy
        self._method = method
        self._call = call
        self._body = body
        self._open: list[UnaryAttempt] = []
        self._doubts: deque[AttemptDoubted] = deque()
        self._answered = False
        self._waiter: asyncio.Future[None] | None = None

    async def finish(self) -> Outcome:
        """Return the first answer, or the last failure; make copies where attempts are doubted."""
        while True:
            done = [attempt for attempt in self._open if attempt.future.done()]
            for attempt in done:
                if error_of(attempt) is None:
                    self._answered = True
                    self.on_answer(attempt)
                    self._end(attempt)
                    return Outcome(attempt, None)
            for attempt in done:
                error = error_of(attempt)
                assert error is not None
                self._end(attempt)
                if not (self._open and self._method.rules.may_repeat(error, idempotent=True)):
                    return Outcome(attempt, error)
                self._on_failure(attempt)
            while self._doubts:
                await self._copy(self._doubts.popleft())
            if not self._any_done():
                await self._wait(None)

    def end_all(self) -> None:
        """Cancel what is still open."""
        for attempt in self._open[:]:
            self._end(attempt)

    def on_answer(self, attempt: UnaryAttempt) -> None:
        """Note which attempt was answered; all others are still open."""

    async def _send(self, call: Call, pick: Pick) -> UnaryAttempt:
        attempts, number = self._attempts, self.state.count
        if attempts.pipeline.transforms:
            start = attempts.transform_and_start
            attempt = await start(self._method, call, pick, self._body, number)
        else:
            attempt = attempts.start_unary(self._method, call, pick, self._body, number)
        self._watch(attempt)
        return attempt

    def _watch(self, attempt: UnaryAttempt) -> None:
        self._open.append(attempt)
        attempt.watch(self._wake, self._on_doubt)

    def _on_doubt(self, doubt: AttemptDoubted) -> None:
        self._doubts.append(doubt)
        self._wake()

    def _on_failure(self, failed: UnaryAttempt) -> None:
        """Try elsewhere if all attempts that are left are doubted."""
        self.state.avoid(failed.node.key)
        if all(attempt.doubted for attempt in self._open):
            self._doubts.append(AttemptDoubted("its copy has failed"))

    async def _copy(self, doubt: AttemptDoubted) -> None:
        """Make one more attempt, if the policies admit it."""
        pick = self._pick_copy(doubt)
        if pick is not None:
            self.state.next_attempt(self.state.exclude)
            await self._send(self._call.copy(), pick)

    def _pick_copy(self, doubt: AttemptDoubted) -> Pick | None:
        """Return where one more attempt goes; `None` if there is to be none."""
        policy, attempts, rescue = self._policy, self._attempts, self._method.rescue
        now = attempts.monotonic()
        if doubt.is_late and len(self._open) > 1:
            return None
        if not (doubt.is_late or all(attempt.doubted for attempt in self._open)):
            return None
        if self.state.count >= self._method.rules.max_attempts or rescue is None:
            return None
        if doubt.is_late and not rescue.allows_late_copy(now):
            return None
        if not doubt.free and serves_retry(running_call()):
            return None
        exclude = self.state.exclude
        for attempt in self._open:  # a new connection to the same server may do
            if doubt.is_late or attempt.conn is attempt.node.pool.conn:
                exclude |= {attempt.node.key}
        pick = attempts.pick_alive(self._call, exclude, rescue.usual(now))
        if pick is not None and not policy.budget.take_copy(free=doubt.free):
            pick[0].cancel_probe(now)
            return None
        return pick

    async def _wait(self, timeout: float | None) -> None:
        """Return when an attempt is done or doubted, or some seconds have passed."""
        waiter = self._waiter = self._open[0].conn.new_future()
        timer = None
        if timeout is not None:
            timer = self._attempts.cluster.call_later(timeout, self._wake)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()

    def _any_done(self) -> bool:
        for attempt in self._open:  # a generator expression takes three times as long
            if attempt.future.done():
                return True
        return False

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, attempt: UnaryAttempt) -> None:
        """Account for an attempt, and cancel it if it is still open."""
        self._open.remove(attempt)
        attempt.unwatch(self._wake)
        if attempt.future.done():
            error = error_of(attempt)
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


class RescuedCall(Race):
    """A call whose first attempt is open and doubted."""

    async def run(self, first: UnaryAttempt, doubt: AttemptDoubted) -> Outcome:
        """Return the outcome; what is open then, or when it is cancelled, is cancelled.

        Args:
            first: The attempt.
            doubt: Why it is doubted.

        Raises:
            CallError: A copy could not be sent.
        """
        self._watch(first)
        self._doubts.append(doubt)
        try:
            return await self.finish()
        finally:
            self.end_all()

    def on_answer(self, attempt: UnaryAttempt) -> None:
        """Let the function be as slow as the attempt that was answered."""
        rescue, now = self._method.rescue, self._attempts.monotonic()
        if rescue is not None:
            rescue.add(now - attempt.started, now)


def error_of(attempt: UnaryAttempt) -> CallError | None:
    """Return how an attempt that is done failed; `None` if it was answered."""
    error = attempt.future.exception()
    assert isinstance(error, CallError | None)  # see `UnaryStream`
    return error
