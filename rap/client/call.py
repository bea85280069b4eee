"""One call, from its method to its answer: the client's flow reads here.

Every failure leaves as a `CallError`. A call that the server provably never saw is tried elsewhere
without asking; one whose connection was lost only if it is idempotent. `rap.client.retry` decides.
"""

import functools
import random
from collections.abc import Coroutine, Mapping
from typing import Any

from rap.call import UNTRACED, Call, Header, Request, Response, Side, StreamType, current
from rap.client.cluster import Cluster
from rap.client.config import ClientConfig
from rap.client.hedging import hedged
from rap.client.method import Method
from rap.client.node import Node
from rap.client.retry import Attempt, RetryBudget, RetryPolicy, serves_retry
from rap.client.session import Session, ambient_session, innermost_session
from rap.clock import NEVER, Clock
from rap.errors import CallError, Code, DeadlineExceeded, Internal, InvalidArgument
from rap.processor.base import Pipeline
from rap.schema.function import decode_any, encode_any
from rap.transport import Connection, Stream, UnaryStream
from rap.wire.codec import unpack
from rap.wire.frames import END, MESSAGE

__all__ = ["Invoker"]

_REQUEST = MESSAGE | END
_NOBODY: frozenset[str] = frozenset()
_ambient = ambient_session.get
_UNTRACED: Header = {UNTRACED: True}  # shared by calls: not to be changed
_UNARY, _CLIENT = StreamType.UNARY, Side.CLIENT  # look-ups are slow


class Invoker:
    """Makes the calls of one client.

    Args:
        cluster: Where they go.
        pipeline: Processors of the client.
        clock: Source of time.
        rng: Source of jitter.
        config: Options of the client.
        identity: Of the client, by which its sessions know it.
    """

    def __init__(
        self,
        cluster: Cluster,
        pipeline: Pipeline,
        clock: Clock,
        rng: random.Random,
        config: ClientConfig,
        identity: object,
    ) -> None:
        self.cluster = cluster
        self.pipeline = pipeline
        self.plain = pipeline.empty
        self.wants_next = pipeline.wants_next
        self.clock = clock
        self.monotonic = clock.monotonic
        self.budget = RetryBudget(config.retry_budget, self._attempts, clock.monotonic)
        self.policy = RetryPolicy(config.max_attempts, self.budget, rng)
        self.identity = identity

    async def unary(
        self,
        method: Method,
        args: Any,
        kwargs: Any,
        session: Session | None = None,
        header: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
    ) -> Any:
        """Make a unary call.

        Raises:
            CallError: It failed; see `rap.errors`.
        """
        body = method.encode(args, kwargs)
        call, session = self.start_call(method, _UNARY, session, header, timeout, affinity)
        send = self.call_with_retries if method.hedge is None else self.hedging
        if self.pipeline.has_scope and not self.untraced(call):
            with self.pipeline.scope(call):
                raw = await send(method, call, session, body)
        else:
            raw = await send(method, call, session, body)
        return method.decode(raw)

    def untraced(self, call: Call) -> bool:
        """Whether a call needs no scope, as it is in no trace; it is marked then."""
        header = call.header
        if header and (len(header) > 1 or "session_id" not in header):
            return False  # it brings something that a processor should see
        if self.wants_next():
            return False
        if header:
            header[UNTRACED] = True
        else:
            call.header = _UNTRACED
        return True

    def start_call(
        self,
        method: Method,
        stream_type: StreamType,
        session: Session | None,
        header: Mapping[str, Any] | None,
        timeout: float | None,
        affinity: str | None = None,
    ) -> tuple[Call, Session | None]:
        """Return the `Call`, with session, header and deadline settled, and its session."""
        if affinity is not None and not isinstance(affinity, str):
            raise InvalidArgument(f"affinity must be a string, got {affinity!r}")
        if session is not None:
            if not isinstance(session, Session):
                raise TypeError(f"session must be a Session, got {session!r}")
            session.check_client(self)
        elif _ambient() is not None:
            session = innermost_session(self)
        own: Header = {}
        if header:
            if not isinstance(header, Mapping):
                raise TypeError(f"header must be a dict, got {header!r}")
            own.update(header)
            _check_names(own)
        if session is not None:
            own["session_id"] = session.id
        outer = current.get()
        deadline = NEVER if outer is None else outer.deadline
        if timeout is not None:
            limit = self.monotonic() + timeout
            if limit < deadline:
                deadline = limit
        call = Call(method.path, stream_type, _CLIENT, own, deadline)
        if affinity is not None:
            call.affinity = affinity
        return call, session

    def pick(
        self, call: Call, session: Session | None, attempt: Attempt | None
    ) -> tuple[Node, Connection] | None:
        """Return where this attempt of a call goes; `None` if it has to wait for that."""
        if session is not None:
            return session.bound()
        node = self.cluster.pick(call.affinity, _NOBODY if attempt is None else attempt.exclude)
        if node is not None:
            conn = node.pool.conn
            if conn is not None and conn.usable:
                if len(conn.streams) < conn.peer_limits.max_streams:
                    return node, conn
        return None

    async def wait_for_pick(self, call: Call, attempt: Attempt | None) -> tuple[Node, Connection]:
        """Return where this attempt of a call goes; wait for that until the deadline."""
        exclude = _NOBODY if attempt is None else attempt.exclude
        return await self.cluster.acquire(call.deadline, call.affinity, exclude)

    def start_attempt(self, call: Call, conn: Connection, attempt: Attempt | None) -> float:
        """Tell the call where this attempt goes; return the time.

        Raises:
            DeadlineExceeded: It is too late for it.
        """
        now = self.monotonic()
        if call.deadline <= now:
            raise DeadlineExceeded(f"{call.method}: the deadline passed before it was sent")
        call.peer = conn.peer
        if attempt is not None:
            call.attempt = attempt.count
        if call.on_attempt:
            for tell in call.on_attempt:
                tell(call)
        return now

    async def call_with_retries(
        self,
        method: Method,
        call: Call,
        session: Session | None,
        body: bytes,
        attempt: Attempt | None = None,
    ) -> bytes | memoryview:
        """Return the raw answer of a unary call, trying again where that is safe."""
        pipeline, cluster = self.pipeline, self.cluster
        while True:
            node, conn = self.pick(call, session, attempt) or await self.wait_for_pick(
                call, attempt
            )
            now = self.start_attempt(call, conn, attempt)
            header = call.header if attempt is None else self.header(call)
            content = body
            if pipeline.transforms:
                request = await pipeline.request(Request(call, decode_any(body), dict(header)))
                header, content = request.header, encode_any(request.body)
                now = self.monotonic()
            stream = UnaryStream(conn, call.deadline)
            if pipeline.sees_errors:
                stream.see_error = functools.partial(pipeline.error, call)
            stats = node.stats
            stats.started(now)
            try:
                conn.open_unary(stream, method.open_meta(call.deadline, now, header), content)
                raw = await stream.future
            except CallError as error:
                node.record_result(now, error)
                if cluster.waiters:
                    cluster.freed()
                attempt = attempt or Attempt()
                await self.prepare_retry(method, call, session, node, conn, attempt, error)
                continue
            except BaseException as error:
                node.record_result(now, error)
                conn.reset(stream, Code.CANCELLED, "the caller was cancelled")
                if cluster.waiters:
                    cluster.freed()
                raise
            ended = self.monotonic()  # `Node.record_result` unrolled
            stats.finished(ended, ended - now, True)
            node.breaker.succeeded(ended)
            if cluster.waiters:
                cluster.freed()
            return (
                await self.decode_response(call, stream.meta, raw) if pipeline.transforms else raw
            )

    def hedging(
        self, method: Method, call: Call, session: Session | None, body: bytes
    ) -> Coroutine[Any, Any, bytes | memoryview]:
        """Return the raw answer of a unary call that may be sent twice; in a session it is not."""
        if session is not None:
            return self.call_with_retries(method, call, session, body)
        return hedged(self, method, call, body)

    async def prepare_retry(
        self,
        method: Method,
        call: Call,
        session: Session | None,
        node: Node,
        conn: Connection,
        attempt: Attempt,
        error: CallError,
    ) -> None:
        """Return when the call may be tried again; raise `error` if it may not."""
        failed = attempt.exclude | {node.key}
        if session is not None:
            raise error
        if error.code is Code.RESOURCE_EXHAUSTED and error.unserved and not error.remote:
            # All connections of the node are full; nothing was sent.
            if not self.cluster.has_room(failed):
                raise error
        elsewhere = any(each.key not in failed for each in self.cluster.ready)
        pause = self.policy.pause(
            error, attempt.count, idempotent=method.idempotent, elsewhere=elsewhere
        )
        if pause is None or self.monotonic() + pause >= call.deadline:
            raise error
        in_retry = serves_retry(current.get())
        parted = not conn.usable
        if not self.policy.admits(error, attempt.count, parted=parted, in_retry=in_retry):
            raise error
        attempt.exclude = failed
        attempt.count += 1
        call.retried = error
        if pause:
            await self.clock.sleep(pause)

    def _attempts(self) -> list[tuple[str, int]]:
        return [(key, node.pool.calls) for key, node in self.cluster.nodes.items()]

    def header(self, call: Call) -> Header:
        """Return the header of an attempt."""
        return call.header if call.attempt == 1 else {**call.header, ":attempt": call.attempt}

    async def encode_request(
        self, call: Call, header: Mapping[str, Any], body: bytes | None
    ) -> tuple[Header, bytes]:
        """Return header and body of the first message after the processors have seen it.

        The opening of a channel has a body only if they give it one.
        """
        request = Request(call, None if body is None else decode_any(body), dict(header))
        request = await self.pipeline.request(request)
        if body is None and request.body is None:
            return request.header, b""
        return request.header, encode_any(request.body)

    async def decode_response(
        self, call: Call, meta: bytes, raw: bytes | memoryview, *, batch: int = 0
    ) -> bytes:
        """Return the body of an answer after the processors have seen it.

        They know by the header ``:batch`` that it is a list of the items of a generator.
        """
        try:
            header: Any = unpack(meta) if meta else {}
            if not isinstance(header, dict):
                raise ValueError(f"it must be a map, got {type(header).__name__}")
        except ValueError as exc:
            raise Internal(f"{call.method}: a malformed header: {exc}") from exc
        if batch:
            header[":batch"] = True
        response = await self.pipeline.response(Response(call, decode_any(raw), header))
        return encode_any(response.body)

    async def open_stream(
        self,
        method: Method,
        call: Call,
        session: Session | None,
        body: bytes | None,
        attempt: Attempt,
    ) -> tuple[Node, Stream]:
        """Open a generator call (with its arguments as body) or a channel (without)."""
        flags = 0 if body is None else _REQUEST
        while True:
            node, conn = self.pick(call, session, attempt) or await self.wait_for_pick(
                call, attempt
            )
            now = self.start_attempt(call, conn, attempt)
            header: Mapping[str, Any] = self.header(call)
            content = body or b""
            if self.pipeline.transforms:
                header, content = await self.encode_request(call, header, body)
                if content:
                    flags |= MESSAGE
                now = self.monotonic()
            stream = Stream(conn)
            stream.deadline = call.deadline
            if self.pipeline.sees_errors:
                stream.see_error = functools.partial(self.pipeline.error, call)
            try:
                conn.open(stream, flags, method.open_meta(call.deadline, now, header), content)
            except CallError as error:
                await self.prepare_retry(method, call, session, node, conn, attempt, error)
            else:
                return node, stream


def _check_names(header: Header) -> None:
    for name in header:
        if not isinstance(name, str) or name.startswith(":"):
            raise InvalidArgument(f"header: a name is a string without ':' in front: {name!r}")
