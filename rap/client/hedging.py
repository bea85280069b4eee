"""Hedged requests: where the first attempt of a call is late, a second goes to another server.

`rap.client.race` has what happens then. Here is when a second attempt is made, and how many are.
"""

from rap.call import Call, running_call
from rap.client.attempt import AttemptFactory, Pick, UnaryAttempt
from rap.client.method import Method
from rap.client.race import Outcome, Race
from rap.client.retry import HedgePolicy, RetryPolicy, RetryState, serves_retry
from rap.transport import Connection
from rap.transport.rate_limit import TokenBucket

__all__ = ["HedgedCall"]

_MAX_CANCELS = 50  # per second and connection; a server takes twice as many by default
_CANCELS = "hedges"  # key in the state of a connection


class HedgedCall(Race):
    """An idempotent unary call that may be attempted twice at the same time.

    Args:
        attempts: Makes the attempts.
        policy: Decides whether there is budget for a second one.
        method: What is called.
        call: The call.
        body: The encoded arguments.
    """

    def __init__(
        self,
        attempts: AttemptFactory,
        policy: RetryPolicy,
        method: Method,
        call: Call,
        body: bytes,
    ) -> None:
        super().__init__(attempts, policy, method, call, body, RetryState())
        assert method.hedge is not None
        self._hedge: HedgePolicy = method.hedge
        self._first: UnaryAttempt

    async def run(self) -> Outcome:
        """Return the outcome; what is open then, or when it is cancelled, is cancelled.

        Raises:
            CallError: There was no server for the first attempt, or an attempt could not be sent.
        """
        try:
            await self.start()
            return await self.finish()
        finally:
            self.end_all()

    async def start(self) -> None:
        """Send the first attempt, and a second if that is late and the policies admit one."""
        attempts, call, state = self._attempts, self._call, self.state
        pick = attempts.pick(call, None, state.exclude)
        pick = pick or await attempts.wait_for_pick(call, state.exclude)
        self._first = first = await self._send(call, pick)
        delay = self._hedge.delay(first.started)
        if delay is None or self._any_done():
            return
        await self._wait(delay)
        if self._any_done() or self._doubts:
            return
        exclude = frozenset((first.node.key,))
        second = self._pick_second(exclude)
        if second is not None:
            state.next_attempt(exclude)
            await self._send(call.copy(), second)

    def on_answer(self, attempt: UnaryAttempt) -> None:
        """Record what the first attempt took; if another one won, that it took longer."""
        if self._first in self._open:
            now = self._attempts.monotonic()
            self._hedge.record(now - self._first.started, now)

    def _pick_second(self, exclude: frozenset[str]) -> Pick | None:
        """Return where a second attempt goes; `None` if there is to be none."""
        hedge, first, policy = self._hedge, self._first, self._policy
        if not hedge.allows or self._method.rules.max_attempts < 2 or serves_retry(running_call()):
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


def _may_cancel(conn: Connection, now: float) -> bool:
    """Whether a call on a connection may be cancelled; servers cut clients that cancel many."""
    bucket = conn.state.get(_CANCELS)
    if bucket is None:
        bucket = conn.state[_CANCELS] = TokenBucket(_MAX_CANCELS, now)
    return bool(bucket.allow(now))
