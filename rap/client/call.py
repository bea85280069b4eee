"""The flow of a call from its arguments to its result, with retries.

Every failure leaves as a `CallError`. A call that the server provably never saw is always attempted
elsewhere; one whose connection was lost only if it is idempotent. `rap.client.retry` decides, and
`rap.client.attempt` makes the attempts.
"""

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import nullcontext
from threading import get_ident
from typing import TYPE_CHECKING, Any

from rap.call import (
    DEFAULT_PRIORITY,
    PRIORITIES,
    PRIORITY,
    Call,
    Header,
    Side,
    StreamType,
    check_priority,
    current,
    running_call,
)
from rap.client.attempt import (
    AttemptFactory,
    Pick,
    StreamAttempt,
    UnaryAttempt,
    decode_response,
    explain_deadline,
    explain_failure,
    explain_refusal,
)
from rap.client.cluster import Cluster
from rap.client.config import ClientConfig
from rap.client.method import Method
from rap.client.node import Node
from rap.client.rescue import LATE, AttemptDoubted
from rap.client.retry import (
    NONE,
    RetryBudget,
    RetryPolicy,
    RetryState,
    is_refusal,
    pushback,
    serves_retry,
)
from rap.client.session import Session, SessionClient, ambient_session, innermost_session
from rap.client.unary_call import UnaryCall
from rap.client.waiting import WaitForReady, check_wait_for_ready
from rap.clock import NEVER, Clock, inherited_deadline
from rap.errors import CallError, Code, DeadlineExceeded, InvalidArgument, Unavailable
from rap.processor.base import Pipeline, encode_body
from rap.transport import Connection

if TYPE_CHECKING:
    from rap.client.race import Outcome
    from rap.client.suspects import Suspects
    from rap.client.throttle import Throttles

__all__ = ["Invoker"]

_ambient = ambient_session.get
_current = current.get
_UNARY, _CLIENT = StreamType.UNARY, Side.CLIENT  # look-ups are slow


_OWN_NAMES = {"session_id", PRIORITY}  # of a header that says nothing to processors
_NOT_IDEMPOTENT = "; rap only retries such a call if it is declared with idempotent=True"


class Invoker:
    """Makes the calls of one client.

    Args:
        cluster: The servers.
        pipeline: The processors of the client.
        clock: Source of time.
        rng: Source of jitter.
        config: Options of the client.
        owner: The client. It lives as long as its calls.
        stubs_keep_time: Whether the clock is the one that stubs read on their fast path.
    """

    def __init__(
        self,
        cluster: Cluster,
        pipeline: Pipeline,
        clock: Clock,
        rng: random.Random,
        config: ClientConfig,
        owner: SessionClient,
        *,
        stubs_keep_time: bool = True,
    ) -> None:
        self.cluster = cluster
        self.loop = cluster.loop
        self.thread = get_ident()
        self._is_running = cluster.loop.is_running
        self._owner = owner
        self.pipeline = pipeline
        self.plain = pipeline.empty and stubs_keep_time
        self.wants_next = pipeline.wants_next if stubs_keep_time else _always
        self.clock = clock
        self.monotonic = clock.monotonic
        self.attempts = AttemptFactory(cluster, pipeline, clock.monotonic)
        self.pick: Callable[[], Node | None] = cluster.pick  # of stubs; see `_on_throttle`
        self.throttles: Throttles | None = None  # made with the first refusal
        self._throttles_calls = config.throttle
        self._rng = rng
        self.budget = RetryBudget(config.retry_budget, cluster.attempts_by_node, clock.monotonic)
        self.policy = RetryPolicy(config.rules, self.budget, rng)
        self.identity = owner.identity
        self._tasks: set[asyncio.Task[Any]] = set()  # of calls that were started
        cluster.handle_suspicions(_suspicion_handler(cluster, self.budget, clock))

    @property
    def throttled(self) -> int:
        """Number of calls so far that were not sent because servers refused most of them."""
        return 0 if self.throttles is None else self.throttles.rejected

    def is_here(self) -> bool:
        """Whether the event loop of the client is the one that runs in this thread."""
        return get_ident() == self.thread and self._is_running()

    async def unary(
        self,
        method: Method,
        args: Any,
        kwargs: Any,
        session: Session | None = None,
        header: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
    ) -> Any:
        """Make a unary call and return its result.

        Args:
            method: What to call.
            args: Positional arguments.
            kwargs: Keyword arguments.
            session: Session of the call; `None`: the one the caller is in, if any.
            header: Sent with the call: a mapping of names to msgpack values.
            timeout: Seconds; `None`: no limit but the deadline of the call that runs here.
            affinity: Key whose calls should keep to one server.
            wait_for_ready: How long the call waits for a server; `None`: as the client does.
            priority: How important the call is; `None`: as `Invoker.priority` says.

        Raises:
            CallError: It failed; see `rap.errors`.
        """
        body = method.encode(args, kwargs)
        call, session = self.start_call(
            method, _UNARY, session, header, timeout, affinity, wait_for_ready, priority
        )
        send = self.call_with_retries if method.hedge is None else self.call_with_hedging
        if self.pipeline.has_scope and not self.untraced(call):
            with self.pipeline.scope(call):
                raw = await send(method, call, session, body)
        else:
            raw = await send(method, call, session, body)
        return method.decode(raw)

    def start(
        self,
        method: Method,
        args: Any,
        kwargs: Any,
        session: Session | None = None,
        header: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
    ) -> UnaryCall[Any]:
        """Start a unary call in a task; see `unary` for the arguments.

        Raises:
            InvalidArgument: The arguments do not fit the function.
        """
        body = method.encode(args, kwargs)
        call, session = self.start_call(
            method, _UNARY, session, header, timeout, affinity, wait_for_ready, priority
        )
        return self.start_task(call, self._unary(method, call, session, body))

    def start_task(self, call: Call, running: Coroutine[Any, Any, Any]) -> UnaryCall[Any]:
        """Run a call with one response in a task, which the client keeps until it ends."""
        task = asyncio.Task(running, loop=self.cluster.loop)  # not by an eager factory
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return UnaryCall(call, task)

    async def _unary(self, method: Method, call: Call, session: Session | None, body: bytes) -> Any:
        """Make a call that was started; return its result."""
        send = self.call_with_retries if method.hedge is None else self.call_with_hedging
        left_out = not self.pipeline.has_scope or self.untraced(call)
        with nullcontext() if left_out else self.pipeline.scope(call):
            return method.decode(await send(method, call, session, body))

    def start_call(
        self,
        method: Method,
        stream_type: StreamType,
        session: Session | None,
        header: Mapping[str, Any] | None,
        timeout: float | None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
    ) -> tuple[Call, Session | None]:
        """Return the `Call`, with session, header and deadline settled, and its session."""
        if affinity is not None and not isinstance(affinity, str):
            raise InvalidArgument(f"affinity must be a string, got {affinity!r}")
        if wait_for_ready is None:
            wait_for_ready = method.rules.wait_for_ready
        else:
            check_wait_for_ready(wait_for_ready)
        if session is not None:
            if not isinstance(session, Session):
                raise TypeError(f"session must be a Session, got {session!r}")
            session.check_client(self.identity)
        elif _ambient() is not None:
            session = innermost_session(self.identity)
        own: Header = {}
        if header is not None:
            if not isinstance(header, Mapping):
                raise TypeError(f"header must be a dict, got {header!r}")
            own.update(header)
            _check_names(own)
        if session is not None:
            own["session_id"] = session.id
        outer = _current()  # `running_call` unrolled
        deadline = NEVER
        if outer is not None and not outer.is_over and outer.deadline != NEVER:
            deadline = inherited_deadline(outer.deadline, self.monotonic())
        if timeout is not None:
            limit = self.monotonic() + timeout
            if limit < deadline:
                deadline = limit
        if priority is not None:
            check_priority(priority, "priority")
        else:
            priority = method.priority
            if outer is not None and outer.priority != DEFAULT_PRIORITY and not outer.is_over:
                priority = _lower(priority, outer.priority)
        if priority is not None:
            own[PRIORITY] = priority
        call = Call(
            method.path, stream_type, _CLIENT, own, deadline, None, affinity, wait_for_ready
        )
        return call, session

    def untraced(self, call: Call) -> bool:
        """Whether a call is in no trace and needs no scope; if so, its header says it."""
        header = call.header
        if header and not header.keys() <= _OWN_NAMES:
            return False  # it brings something that a processor should see
        if self.wants_next():
            return False
        call.mark_untraced()
        return True

    async def call_with_retries(
        self,
        method: Method,
        call: Call,
        session: Session | None,
        body: bytes,
        state: RetryState | None = None,
    ) -> bytes | memoryview:
        """Return the raw response of a unary call; make further attempts where that is safe.

        Args:
            method: What is called.
            call: The call.
            session: Its session, if any.
            body: The encoded arguments.
            state: The attempts that have failed already; `None`: none.
        """
        # `AttemptFactory.transform_and_start`, `succeed` and `fail`, unrolled: they would cost 2 %.
        if self.throttles is not None and state is None:
            self.throttles.check(call)
        attempts, pipeline, cluster = self.attempts, self.pipeline, self.cluster
        rescue = method.rescue if session is None else None
        number, exclude = (1, NONE) if state is None else (state.count, state.exclude)
        is_free = session is None and call.affinity is None  # any server may get the call
        while True:
            pick = attempts.pick(call, session, exclude)
            pick = pick or await attempts.wait_for_pick(call, exclude)
            node, conn = pick
            now = self.monotonic()
            call.start_attempt(number, conn.peer, now)
            header = call.header if number == 1 else {**call.header, ":attempt": number}
            content = body
            if pipeline.transforms:
                request = await pipeline.pass_request(call, body, dict(header))
                content, header = encode_body(request), request.header
                now = self.monotonic()
            meta = method.open_meta(call.deadline, now, header)
            stream = UnaryAttempt(conn, call.deadline)
            if rescue is not None:
                stream.late_at = now + LATE * (call.deadline - now)
            if pipeline.sees_errors:
                stream.on_error(functools.partial(pipeline.error, call))
            stats = node.stats
            stats.started(now)
            try:
                conn.open_unary(stream, meta, content)
                raw = await stream.future
            except CallError as error:
                node.record_result(now, error, method if is_free else None, call.deadline)
                if cluster.waiters:
                    cluster.release()
                if isinstance(error, AttemptDoubted):
                    stream.adopt(method, call, node, now)
                    state = state or RetryState()
                    return await self._rescue(method, call, body, state, stream, error)
                call.set_answer(stream.failed_meta or b"")
                del stream  # its future has the error, which has this frame
                state = state or RetryState()
                await self.prepare_retry(method, call, session, pick, state, error, now)
                number, exclude = state.count, state.exclude
                continue
            except BaseException as error:  # the end of the call; raised again
                node.record_result(now, error)
                conn.reset(stream, Code.CANCELLED, "the caller was cancelled")
                if cluster.waiters:
                    cluster.release()
                raise
            ended = self.monotonic()
            stats.finished(ended, ended - now, True)
            node.breaker.succeeded(ended)
            if rescue is not None and ended >= rescue.sample_at:
                rescue.add(ended - now, ended)
            if method.tally is not None and is_free:
                method.count_answer(node.key, ended)
            if cluster.waiters:
                cluster.release()
            if stream.meta:
                call.set_answer(stream.meta)
            if pipeline.transforms:
                return await decode_response(pipeline, call, stream.meta, raw)
            return raw

    def call_with_hedging(
        self, method: Method, call: Call, session: Session | None, body: bytes
    ) -> Coroutine[Any, Any, bytes | memoryview]:
        """Return the raw response of a unary call that may be hedged; in a session it is not."""
        if session is not None:
            return self.call_with_retries(method, call, session, body)
        return self._hedge(method, call, body)

    async def _hedge(self, method: Method, call: Call, body: bytes) -> bytes | memoryview:
        from rap.client.hedging import HedgedCall  # few clients hedge

        if self.throttles is not None:
            self.throttles.check(call)
        hedged = HedgedCall(self.attempts, self.policy, method, call, body)
        return await self._settle(method, call, body, hedged.state, await hedged.run())

    async def _rescue(
        self,
        method: Method,
        call: Call,
        body: bytes,
        state: RetryState,
        attempt: UnaryAttempt,
        doubt: AttemptDoubted,
    ) -> bytes | memoryview:
        """Return the raw response of a call whose open attempt is doubted."""
        from rap.client.race import RescuedCall  # not needed while all is well

        rescued = RescuedCall(self.attempts, self.policy, method, call, body, state)
        try:
            outcome = await rescued.run(attempt, doubt)
            return await self._settle(method, call, body, state, outcome)
        except BaseException as error:  # raised again
            doubt.leave_context_of(error)
            raise

    async def _settle(
        self, method: Method, call: Call, body: bytes, state: RetryState, outcome: "Outcome"
    ) -> bytes | memoryview:
        """Return the raw response of a call that had several attempts; retry it if all failed."""
        attempt, error = outcome
        call.set_answer(attempt.meta or attempt.failed_meta or b"")
        if error is not None:
            pick = attempt.node, attempt.conn
            await self.prepare_retry(method, call, None, pick, state, error, attempt.started)
            return await self.call_with_retries(method, call, None, body, state)
        raw = attempt.future.result()
        if self.pipeline.transforms:
            raw = await decode_response(self.pipeline, attempt.call, attempt.meta, raw)
        call.settle(attempt.call, state.count)
        return raw

    async def retry_unary(
        self,
        method: Method,
        node: Node,
        stream: UnaryAttempt,
        started: float,
        body: bytes,
        error: CallError,
    ) -> bytes | memoryview:
        """Go on with a call whose first attempt on the fast path of its stub failed or is doubted.

        Args:
            method: What is called.
            node: Where the attempt went; it has recorded the result.
            stream: The attempt.
            started: When it was sent, in seconds on the monotonic clock.
            body: The encoded arguments.
            error: How it failed.
        """
        cluster = self.cluster
        if is_refusal(error) and cluster.all_refuse() and not cluster.is_gathering():
            self.policy.gives_up(error)  # as `prepare_retry` would say
            self._count_refusal(method.path, method.priority, stream.conn, error)
            try:
                raise error
            finally:
                del error, stream  # or the collector has to find a cycle for each refused call
        header = method.header if self.plain else method.untraced_header
        call, state = Call(method.path, _UNARY, _CLIENT, header, stream.deadline), RetryState()
        if isinstance(error, AttemptDoubted):
            call.start_attempt(1, stream.conn.peer, started)
            stream.adopt(method, call, node, started)
            return await self._rescue(method, call, body, state, stream, error)
        pick = node, stream.conn
        await self.prepare_retry(method, call, None, pick, state, error, started)
        return await self.call_with_retries(method, call, None, body, state)

    async def open_stream(
        self,
        method: Method,
        call: Call,
        session: Session | None,
        body: bytes | None,
        state: RetryState,
    ) -> StreamAttempt:
        """Open a generator call (with its arguments as body) or a channel (without)."""
        attempts = self.attempts
        if self.throttles is not None and state.count == 1:
            self.throttles.check(call)
        while True:
            exclude = state.exclude
            pick = attempts.pick(call, session, exclude)
            pick = pick or await attempts.wait_for_pick(call, exclude)
            if session is None and call.affinity is None:
                pick = attempts.place_stream(pick, exclude)
            attempt = await attempts.start_stream(method, call, pick, body, state.count)
            error = attempt.error
            if error is None:
                if method.idempotent and session is None and not call.stream_type.client_streams:
                    self._allow_rescue(method, call, attempt, state)
                return attempt
            await self.prepare_retry(method, call, session, pick, state, error)

    def _allow_rescue(
        self, method: Method, call: Call, attempt: StreamAttempt, state: RetryState
    ) -> None:
        """Let a generator without an item be made again if its server is silent, or it is late."""
        if state.count >= method.rules.max_attempts:
            return
        if state.count > 1:
            attempt.allow_rescue()
            return
        now, attempts, policy, rescue = self.monotonic(), self.attempts, self.policy, method.rescue

        def tell(late: StreamAttempt) -> None:
            now = attempts.monotonic()
            if rescue is None or not rescue.allows_late_copy(now):
                return
            pick = attempts.pick_alive(call, frozenset((late.node.key,)), rescue.usual(now))
            if pick is None:
                return
            pick[0].cancel_probe(now)
            if policy.budget.take_copy(free=False):
                late.give_up("it has sent no item for long")

        attempt.allow_rescue(now + LATE * (call.deadline - now), tell)

    async def prepare_retry(
        self,
        method: Method,
        call: Call,
        session: Session | None,
        pick: Pick,
        state: RetryState,
        error: CallError,
        started: float | None = None,
    ) -> None:
        """Return when the next attempt may be made; raise `error` if there is to be none.

        Args:
            method: What is called.
            call: The call.
            session: Its session, if any.
            pick: Where the attempt that failed went.
            state: The attempts so far; updated for the next one.
            error: How the attempt failed; gets a text that says what the caller has to know.
            started: When the attempt was sent, in seconds on the monotonic clock; `None` if it
                could not be sent.
        """
        if await self._may_retry(method, call, session, pick, state, error, started):
            return
        if is_refusal(error):
            self._count_refusal(call.method, call.header.get(PRIORITY), pick[1], error)
        elif call.retried is not None:
            call.explain_attempts(error, state.count, self.monotonic())
        try:
            raise error
        finally:
            del error  # or the collector has to find a cycle for each failed call

    def note_refusal(self, call: Call, stream: StreamAttempt, error: CallError) -> None:
        """Note the refusal, if it is one, of a call that may not be retried: items were sent."""
        if is_refusal(error):
            stream.node.avoid(pushback(error) or 0.0)
            self._count_refusal(call.method, call.header.get(PRIORITY), stream.conn, error)

    def _count_refusal(
        self, path: str, priority: str | None, conn: Connection, error: CallError
    ) -> None:
        """Count a call that overloaded servers have refused, which is not retried.

        Args:
            path: Name of the function, ``/group/name``.
            priority: Priority that the call has named.
            conn: Where it was refused at last.
            error: The refusal; gets a text that names the server.
        """
        explain_refusal(error, path, conn)
        if not self._throttles_calls:
            return
        if self.throttles is None:
            from rap.client.throttle import Throttles  # not needed while all is well

            self.throttles = Throttles(self.monotonic, self._rng, self._on_throttle)
        self.throttles.count_refusal(path, priority, error)

    def _on_throttle(self, active: bool) -> None:
        """Let stubs take the general path, on which calls are counted, while some are rejected."""
        self.pick = _pick_none if active else self.cluster.pick

    async def _may_retry(
        self,
        method: Method,
        call: Call,
        session: Session | None,
        pick: Pick,
        state: RetryState,
        error: CallError,
        started: float | None,
    ) -> bool:
        """Return whether the next attempt may be made, when that is; see `prepare_retry`."""
        node, conn = pick
        sent = self.monotonic() if started is None else started
        if isinstance(error, AttemptDoubted):
            state.next_attempt(state.exclude | {node.key})
            call.retry_after(error, sent)
            return True
        if isinstance(error, DeadlineExceeded) and started is not None:
            if method.rescue is not None:
                now = self.monotonic()
                method.rescue.add(now - started, now)
            explain_deadline(error, call, conn, started, self.monotonic())
        elif isinstance(error, Unavailable) and not (error.remote or error.unserved):
            is_told = session is None and not method.idempotent
            hint = _NOT_IDEMPOTENT if is_told else ""
            error.restate(f"{method.path}: {error.message}{hint}")
        else:
            explain_failure(error, call, conn)
        failed = state.exclude | {node.key}
        if is_refusal(error):
            failed |= self.cluster.refusing()
        if error.details.get("limit") == "max_streams" and error.unserved and not error.remote:
            # The connection is full, and nothing was sent: the call waits for a place.
            if session is None or await self.cluster.wait_for_room(conn, call.deadline):
                return True
        if session is not None:
            return False
        if error.code is Code.RESOURCE_EXHAUSTED and error.unserved and not error.remote:
            if not self.cluster.has_room(failed):  # its stream ids are used up
                return False
        elsewhere = any(each.key not in failed for each in self.cluster.ready)
        is_refused_by_all = not elsewhere and is_refusal(error)
        gathers = is_refusal(error) and self.cluster.is_gathering()
        if is_refused_by_all and not gathers:
            self.policy.gives_up(error)
            return False
        if error.code is Code.UNIMPLEMENTED and error.unserved:
            # A server of another version may have the function: ask each once.
            if not elsewhere or method.rules.max_attempts < 2 or self.monotonic() >= call.deadline:
                return False
            self.budget.count_free()
            from rap.client.declarations import lacking  # only during an update

            state.next_attempt(failed | lacking(self.cluster.listed.values(), method.path))
            call.retry_after(error, sent)
            return True
        attempts = state.count
        if gathers:  # it waits for the others to come, which its deadline limits
            attempts = max(1, min(attempts, method.rules.max_attempts - 1))
        pause = self.policy.pause(
            error,
            attempts,
            idempotent=method.idempotent,
            elsewhere=elsewhere,
            rules=method.rules,
        )
        if pause is None or self.monotonic() + pause >= call.deadline:
            if is_refused_by_all:
                self.policy.gives_up(error)
            return False
        in_retry = serves_retry(running_call())
        parted = not conn.usable
        if gathers and not in_retry:  # for five seconds at most
            self.budget.count_free()
        elif not self.policy.admits(error, state.count, parted=parted, in_retry=in_retry):
            return False
        state.next_attempt(failed)
        call.retry_after(error, sent)
        if pause:
            await self.clock.sleep(pause)
        return True


def _pick_none() -> None:
    """Pick no node on the fast path of stubs."""


def _lower(name: str | None, other: int) -> str:
    """Return the lower one of two priorities, of which the first may not be named."""
    return PRIORITIES[other if name is None else max(other, PRIORITIES.index(name))]


def _suspicion_handler(
    cluster: Cluster, budget: RetryBudget, clock: Clock
) -> Callable[[Node, Connection], None]:
    """Return what rescues the calls on suspect connections; it must not keep the client alive."""
    suspects: Suspects | None = None

    def handle(node: Node, conn: Connection) -> None:
        nonlocal suspects
        if suspects is None:
            from rap.client.suspects import Suspects  # not needed while all is well

            suspects = Suspects(cluster, budget, clock)
        suspects.on_change(node, conn)

    return handle


def _check_names(header: Header) -> None:
    for name in header:
        if not isinstance(name, str) or name.startswith(":"):
            raise InvalidArgument(f"header: a name is a string without ':' in front: {name!r}")


def _always() -> bool:
    return True
