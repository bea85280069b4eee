"""All servers of a service as the client sees them: snapshots in, a node for each call out."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import aclosing
from itertools import islice
from typing import Any, NamedTuple

from rap.balance import (
    BreakerState,
    Picker,
    Subset,
    ZoneAware,
    effective_weights,
    ejection_limit,
    is_panic,
    median_ewma,
    needs_all,
)
from rap.client.config import ClientConfig
from rap.client.node import Node
from rap.client.pool import Counters, Pool, ServerDraining, has_room
from rap.client.subsetting import Subsetting
from rap.clock import NEVER, Clock
from rap.errors import CallError, ConnectionClosed, ResourceExhausted, Unauthenticated, Unavailable
from rap.registry import Endpoint, Resolver, Snapshot, State, diff
from rap.registry.base import last_error_of
from rap.transport import Connection

__all__ = [
    "Cluster",
    "Ready",
    "Waiting",
    "closed",
    "denial_of",
    "ready_nodes",
    "waited",
    "why_none",
]


_MOST_TOLD = 10  # of very many nodes nobody reads more


def why_none(
    service: str, nodes: Collection[Node], known: bool, max_in_flight: int, last_error: str
) -> str:
    """Return one sentence on what is wrong with each node; of many, with the first ones.

    Args:
        service: Its name; empty for a list of addresses.
        nodes: All that there are.
        known: The registry has answered.
        max_in_flight: Unary calls that one may have.
        last_error: Why the registry has no answer now; empty if it has one.
    """
    of = f" of service {service!r}" if service else ""
    if not nodes:
        why = "the registry lists none" if known else "the registry has not answered"
        return f"no server{of}: {why}" + (f": {last_error}" if last_error else "")
    parts = []
    for node in islice(nodes, _MOST_TOLD):
        full = node.stats.in_flight >= max_in_flight
        why = "its max_in_flight is reached" if full else f"{node.state}: {node.pool.error}"
        parts.append(f"{node.key} ({why})")
    if len(nodes) > _MOST_TOLD:
        parts.append(f"and {len(nodes) - _MOST_TOLD} more")
    return f"no usable server{of}: " + "; ".join(parts)


def closed(loop: asyncio.AbstractEventLoop) -> Unavailable:
    """Return the error of a call that finds the client closed, by its user or with its loop."""
    text = "the client was closed"
    if loop.is_closed():
        text += " with the event loop that it was connected in: keep it to one asyncio.run()"
    return Unavailable(text, unserved=True)


def waited(seconds: float, *, is_call: bool) -> str:
    """Return how long somebody waited for a server, and which timeout ended that.

    Args:
        seconds: How long.
        is_call: The deadline of a call had come.
    """
    which = "the timeout of the call" if is_call else "option connect_timeout"
    return f"waited {round(max(seconds, 0.0), 3):g} s ({which})"


def denial_of(nodes: Collection[Node]) -> Unauthenticated | None:
    """Return why no server takes this client, if that is what all of them say."""
    denials = [node.pool.denial for node in nodes]
    return denials[0] if all(denials) and denials else None


class Ready(NamedTuple):
    """Where calls may go.

    Args:
        nodes: Those that may be picked.
        changing: That soon changes by itself: the weight of one still grows, or an ejected one
            waits for its probe.
        panic: So few are healthy that health is ignored.
    """

    nodes: tuple[Node, ...]
    changing: bool
    panic: bool


def ready_nodes(nodes: Iterable[Node], now: float, slow_start: float) -> Ready:
    """Return the nodes that may be picked, and set their weights.

    Args:
        nodes: All nodes.
        now: Seconds on the monotonic clock.
        slow_start: Seconds over which a newcomer's weight grows.
    """
    connected = [node for node in nodes if node.pool.conn is not None]
    serving = [node for node in connected if node.endpoint.state is not State.DRAINING]
    healthy = [node for node in serving if node.breaker.available(now)]
    ejected = len(serving) - len(healthy)
    panic = is_panic(len(healthy), len(serving))
    if panic:
        healthy = serving
    newcomers = [node for node in healthy if node.since is None]
    if newcomers:
        prior = median_ewma(node.stats for node in healthy)
        for node in newcomers:
            node.since = now
            node.stats.prior = prior
    ages = [(float(n.endpoint.weight), now - (n.since or now)) for n in healthy]
    for node, weight in zip(healthy, effective_weights(ages, slow_start), strict=True):
        node.weight = weight
    changing = ejected > 0 or any(age < slow_start for _, age in ages)
    return Ready(tuple(healthy), changing, panic)


class Waiting:
    """The queue of calls that no server can take now.

    Args:
        limit: Calls at the most.
        clock: Source of time.

    Attributes:
        queue: A future for each call; false in a condition when nobody waits.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self.queue: deque[asyncio.Future[None]] = deque()
        self._limit = limit
        self._clock = clock
        self._loop = asyncio.get_running_loop()

    async def wait(self, until: float) -> None:
        """Return when it is this call's turn to try again.

        Args:
            until: Seconds on the monotonic clock.

        Raises:
            ResourceExhausted: Too many wait already.
            TimeoutError: Its turn did not come in time.
        """
        if len(self.queue) >= self._limit:
            raise ResourceExhausted(
                f"{self._limit} calls wait for a server, which is max_waiting", unserved=True
            )
        turn = self._loop.create_future()
        self.queue.append(turn)
        try:
            async with asyncio.timeout(max(0.0, until - self._clock.monotonic())):
                await turn
        except BaseException:
            if turn in self.queue:
                self.queue.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self.wake()  # nobody takes this turn: the next in line does
            raise

    def wake(self) -> None:
        """Let the first in line go on."""
        while self.queue:
            turn = self.queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def wake_all(self) -> None:
        """Let all go on; who finds no place waits again."""
        for turn in self.queue:
            if not turn.done():
                turn.set_result(None)
        self.queue.clear()

    def fail(self, error: CallError) -> None:
        """End the wait of all with an error."""
        for turn in self.queue:
            if not turn.done():
                turn.set_exception(error)
        self.queue.clear()


_log = logging.getLogger("rap.client")

_CLOSED = BreakerState.CLOSED  # looking a member up by its class is slow
_UNNAMED = "static"  # what a fixed list of addresses is watched as
_LAST_CHOICE = 30.0  # seconds that nodes without a connection stay after a mass loss
_RAMP_STEP = 1.0  # seconds between two looks at the weights during slow start
_FULL_STEP = 0.05  # seconds between two looks for room while calls wait for it
_WATCH_AGAIN = 1.0  # seconds after which a watch that failed is begun anew

# Dials one connection to an endpoint, told whom to tell of its Hello, GoAway and end.
Dial = Callable[[Endpoint, Callable[[Connection], None]], Any]


class Cluster:
    """The nodes of one service.

    Args:
        service: Name of the service; empty for a list of addresses.
        resolver: Where to watch it.
        picker: Chooses the node of a call.
        dial: Opens a connection to an endpoint.
        config: Options of the client.
        clock: Source of time.
        rng: Source of chance.

    Attributes:
        ready: The nodes a call may go to now; replaced as a whole, never changed.
        nodes: All nodes by id.
        counters: What has happened to their connections.
        waiters: Calls that wait for a node.
        loop: The event loop it lives in.
    """

    def __init__(
        self,
        service: str,
        resolver: Resolver,
        picker: Picker,
        dial: Dial,
        config: ClientConfig,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.ready: tuple[Node, ...] = ()
        self.nodes: dict[str, Node] = {}
        self.counters = Counters()
        self.service = service
        self._resolver = resolver
        self._pick = picker.pick
        self._zones = picker if isinstance(picker, ZoneAware) else None
        size = config.subset
        subset = None if size is None or needs_all(picker) else Subset(size, rng)
        self._subsetting = Subsetting(subset, self.nodes, clock, self._apply)
        self._most_in_flight = config.max_in_flight
        self._dial = dial
        self._config = config
        self._clock = clock
        self._rng = rng
        self._snapshot: Snapshot = {}
        self._waiting = Waiting(config.max_waiting, clock)
        self.waiters = self._waiting.queue
        self._watch: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.loop = asyncio.get_running_loop()
        self._known = False  # a first snapshot has come
        self._closed = False

    def start(self) -> None:
        """Watch the service and connect to its servers, in the background."""
        self._watch = asyncio.create_task(self._follow(), name=f"rap watch {self.service}")

    async def close(self) -> None:
        """Stop watching, close every connection; calls that wait fail. May be called again."""
        self._closed = True
        self.ready = ()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.fail(closed(self.loop))
        ours = (self._watch, self._subsetting.stop(), *self._closing)
        tasks = [task for task in ours if task is not None]
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
            await asyncio.gather(*(node.pool.close() for node in self.nodes.values()))
        except asyncio.CancelledError:  # who cannot wait wants it closed all the same
            self._abort()
            raise
        self.nodes.clear()

    def _abort(self) -> None:
        self._closed = True
        for node in self.nodes.values():
            node.pool.abort()

    def pick(
        self, affinity: str | None = None, exclude: frozenset[str] = frozenset()
    ) -> Node | None:
        """Return the node for a call; `None` while there is none.

        Args:
            affinity: Key whose calls should keep to one node.
            exclude: Ids of nodes to avoid, unless there is no other.
        """
        ready = self.ready
        if exclude:
            ready = tuple(node for node in ready if node.key not in exclude) or ready
        if not ready:
            return None
        node = self._pick(ready, affinity)
        if node.breaker.state is not _CLOSED:
            node.breaker.allow(self._clock.monotonic())
            self._refresh_soon(0.0)
        if node.stats.in_flight >= self._most_in_flight:
            node = min(ready, key=lambda each: each.stats.in_flight)
            if node.stats.in_flight >= self._most_in_flight:
                return None
        return node

    async def acquire(
        self, deadline: float, affinity: str | None = None, exclude: frozenset[str] = frozenset()
    ) -> tuple[Node, Connection]:
        """Return a node and a connection of it; waits for one until `deadline`.

        Raises:
            Unavailable: None came in time; says what is wrong with each.
            ResourceExhausted: Too many calls wait already.
        """
        began, is_call = self._clock.monotonic(), deadline != NEVER
        limit = deadline if is_call else began + self._config.connect_timeout
        while not self._closed:
            node = self.pick(affinity, exclude)
            if node is None:
                try:
                    await self._wait(limit)
                except TimeoutError:
                    text = f"{self.describe()}; {waited(limit - began, is_call=is_call)}"
                    raise Unavailable(text, unserved=True) from None
                continue
            conn = node.pool.conn
            if conn is None or not conn.usable or not has_room(conn):
                node.pool.refresh()
                conn = node.pool.conn
            if conn is not None:
                return node, conn
            self._refresh()
        raise closed(self.loop)

    def attempts_by_node(self) -> list[tuple[str, int]]:
        """Return how many attempts each node was given so far, by its id."""
        return [(key, node.pool.calls) for key, node in self.nodes.items()]

    def has_room(self, exclude: frozenset[str]) -> bool:
        """Whether a node takes one more call now, or will when the dial under way succeeds."""
        for key, node in self.nodes.items():
            node.pool.refresh()
            conn = node.pool.conn
            if node.pool.full or (key not in exclude and conn is not None and has_room(conn)):
                return True
        return False

    def release(self) -> None:
        """Let the next waiting call go on: one has ended."""
        if any(node.pool.full for node in self.nodes.values()):
            self._refresh()  # lets all go on if there is room now
        self._waiting.wake()

    def describe(self) -> str:
        """Return one sentence on what is wrong with each node."""
        most, last_error = self._config.max_in_flight, last_error_of(self._resolver)
        return why_none(self.service, self.nodes.values(), self._known, most, last_error)

    async def _wait(self, limit: float) -> None:
        if denial := denial_of(self.nodes.values()):
            raise Unauthenticated(str(denial), remote=denial.remote, unserved=True)
        self._look_for_room()
        await self._waiting.wait(limit)

    def _look_for_room(self) -> None:
        """While calls wait at full connections, look now and then whether a stream has ended."""
        if any(node.pool.full for node in self.nodes.values()):
            self._refresh_soon(_FULL_STEP)

    # Snapshots.

    async def _follow(self) -> None:
        try:
            while True:
                try:
                    await self._watch_once()
                except Exception:
                    _log.exception("watching %r failed", self.service)
                await self._clock.sleep(_WATCH_AGAIN)
        except asyncio.CancelledError:
            if not self._closed:  # the program ends without having closed its client
                self._abort()
            raise

    async def _watch_once(self) -> None:
        watching: Any = self._resolver.watch(self.service or _UNNAMED)
        async with aclosing(watching) as snapshots:
            async for snapshot in snapshots:
                try:
                    self._apply(snapshot)
                except Exception:
                    _log.exception("a snapshot of %r could not be used", self.service)

    def _apply(self, listed: Snapshot) -> None:
        self._known = True
        snapshot = self._subsetting.of(listed)
        change = diff(self._snapshot, snapshot)
        lost = sum(endpoint.id not in listed for endpoint in change.removed)
        mass_loss = lost * 2 > len(self._snapshot)
        self._snapshot = dict(snapshot)
        for endpoint in change.added:
            known = self.nodes.get(endpoint.id)
            if known is None:
                self._add(endpoint)
            else:
                self._update(known, endpoint)
        for endpoint in change.updated:
            self._update(self.nodes[endpoint.id], endpoint)
        for endpoint in change.removed:
            node = self.nodes.get(endpoint.id)
            if endpoint.id not in listed:
                self._lose(node, mass_loss)
            elif node is not None:
                self._remove(node)  # another took its place in the subset
        self._choose_whom_to_dial()
        self._refresh()

    def _add(self, endpoint: Endpoint) -> None:
        pool = Pool(
            endpoint.id,
            lambda pool: self._open(node, pool),
            max_connections=self._config.max_connections,
            clock=self._clock,
            rng=self._rng,
            on_change=self._refresh,
            counters=self.counters,
        )
        node = Node(
            endpoint,
            pool,
            clock=self._clock,
            rng=self._rng,
            may_eject=self._may_eject,
            on_change=self._refresh,
        )
        self.nodes[endpoint.id] = node

    def _update(self, node: Node, endpoint: Endpoint) -> None:
        restarted = endpoint.incarnation != node.incarnation and bool(endpoint.incarnation)
        node.endpoint = endpoint
        node.leaving = False
        node.weight = float(endpoint.weight)
        if restarted:
            node.reset(endpoint.incarnation)
            node.pool.drain()
        if endpoint.state is State.UP:
            node.pool.reset_backoff()

    def _lose(self, node: Node | None, mass_loss: bool) -> None:
        """Act on a node that left the registry; a connection that works keeps it in place."""
        if node is None:
            return
        node.leaving = True
        node.keep_until = 0.0
        node.pool.wanted = False
        if node.state == "draining":
            self._remove(node)
        elif mass_loss and not node.alive:
            node.keep_until = self._clock.monotonic() + _LAST_CHOICE
            node.pool.set_wanted(True)

    def _choose_whom_to_dial(self) -> None:
        """Keep connections to those that are UP; to suspects only if fewer than half are UP."""
        states = [endpoint.state for endpoint in self._snapshot.values()]
        few = states.count(State.UP) * 2 < len(states)
        for key, endpoint in self._snapshot.items():
            wanted = endpoint.state is State.UP or (few and endpoint.state is State.SUSPECT)
            pool = self.nodes[key].pool
            if pool.wanted != wanted:  # of a thousand few change
                pool.set_wanted(wanted)

    def _remove(self, node: Node) -> None:
        if self.nodes.get(node.key) is node:
            del self.nodes[node.key]
            node.pool.set_wanted(False)
            node.pool.drain()
            task = asyncio.create_task(self._retire(node), name=f"rap retire {node.key}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _retire(self, node: Node) -> None:
        """Wait for the calls on a removed node to finish."""
        ends = [conn.ended for conn in node.pool.connections]
        try:
            if ends:
                await asyncio.wait(ends)
        finally:
            await node.pool.close()

    async def _open(self, node: Node, pool: Pool) -> Connection:
        conn: Connection = await self._dial(node.endpoint, pool.on_connection)
        error = self._refusal(node, conn)
        if error is not None:
            conn.abort(error)
            raise error
        self._subsetting.connected(node, conn)
        incarnation = conn.peer_hello.get("incarnation")
        if isinstance(incarnation, str) and incarnation != node.incarnation:
            if node.incarnation:
                node.reset(incarnation)
                if self.service:  # a fixed address may stand for several servers
                    pool.drain()
            node.incarnation = incarnation
        return conn

    def _refusal(self, node: Node, conn: Connection) -> ConnectionClosed | None:
        """Return why a connection is of no use; `None` for a good one."""
        serves = conn.peer_hello.get("service")
        if self.service and serves != self.service:
            return ConnectionClosed(f"{node.key} serves {serves!r}, not {self.service!r}")
        if conn.draining and conn.error is not None:
            return ConnectionClosed(str(conn.error))  # by middleware, with a reason
        return ServerDraining(f"{node.key} is draining") if conn.draining else None

    def _may_eject(self) -> bool:
        out = sum(node.breaker.state is BreakerState.OPEN for node in self.nodes.values())
        return out < ejection_limit(len(self.nodes))

    def _refresh(self) -> None:
        """Work out which nodes a call may go to, and with which weights."""
        if self._closed:
            return
        now = self._clock.monotonic()
        for node in list(self.nodes.values()):
            if node.leaving and not node.alive:
                if now >= node.keep_until:
                    self._remove(node)
                else:
                    self._refresh_soon(node.keep_until - now)
            elif node.pool.full:
                node.pool.refresh()
        ready, changing, panic = ready_nodes(self.nodes.values(), now, self._config.slow_start)
        self.ready = self.ready if ready == self.ready else ready  # pickers know it by identity
        if self._zones is not None:
            self._zones.plan(self.ready, panic)
        if changing:
            self._refresh_soon(_RAMP_STEP)
        if self.ready or denial_of(self.nodes.values()):
            self._waiting.wake_all()
        elif self.waiters:
            self._look_for_room()
        self._subsetting.replace_lost(len(self.ready))

    def _refresh_soon(self, delay: float) -> None:
        when = self.loop.time() + delay  # uvloop's handles do not tell it
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self.loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._refresh()
