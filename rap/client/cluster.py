"""The servers of a service as a client sees them: from snapshots of the registry to picks.

The way from one to the other reads in this order:

1. The registry lists endpoints in a snapshot. Subsetting chooses those to connect to.
2. Each chosen endpoint is a `Node` with a pool of connections.
3. The nodes that calls may go to now are the ready set, worked out by `ready_nodes`.
4. `Cluster.pick` lets the picker choose one of them. Calls that find none wait in a `PickQueue`.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from itertools import islice
from math import frexp, inf, ldexp
from typing import TYPE_CHECKING, Any, NamedTuple

from rap.balance import (
    BreakerPolicy,
    BreakerState,
    Picker,
    Subset,
    ZoneAware,
    effective_weights,
    ejection_limit,
    is_panic,
    median_ewma,
    needs_all,
    spreads_streams,
)
from rap.call import running_call
from rap.client.config import ClientConfig
from rap.client.node import Node
from rap.client.pool import Counters, Pool, ServerDraining, has_room
from rap.client.subsetting import Subsetting
from rap.client.waiting import Outlook, Patience, PickQueue, WaitForReady
from rap.clock import NEVER, Clock, Timer, timer_of
from rap.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    RapError,
    Unauthenticated,
    Unavailable,
    VersionMismatch,
)
from rap.foreign import one_line
from rap.registry import Endpoint, Resolver, Snapshot, State, diff
from rap.registry.base import last_error_of, place_of
from rap.tasks import start_task
from rap.transport import Connection

if TYPE_CHECKING:
    from rap.balance import Comparison

__all__ = ["Cluster", "Ready", "ready_nodes"]

_log = logging.getLogger("rap.client")

_CLOSED = BreakerState.CLOSED  # looking a member up by its class is slow
_UNNAMED = "static"  # the name under which a fixed list of addresses is watched
_LAST_CHOICE = 30.0  # seconds that nodes without a connection stay after a mass loss
_RAMP_STEP = 1.0  # seconds between two looks at the weights during slow start
_FULL_STEP = 0.05  # seconds between two looks for room while calls wait for it
_WATCH_AGAIN = 1.0  # seconds after which a watch that failed is started again
_SETTLED = 1.0  # seconds after which clients that start together with this one are connected too
_REPORTED = 1.0  # seconds within which servers say how many clients they have
_RECENT = 2.0  # seconds for which a report still holds: not all servers may be asked again so soon
_REMEMBERED = 600.0  # seconds for which a server that has left is known
_FORMER = 30.0  # seconds for which it is known how many servers there were
_JOINING = 0.2  # seconds that calls wait for the first dials of other servers than the first one
_TIME_TO_JOIN = 2 * _JOINING  # that a call has if it is to wait for them
_GATHERING = 5.0  # seconds in which the others come, once a first server is ready
_SILENT = 1.0  # seconds for which `connect` waits without a word
_EARLY = 0.002  # seconds that a timer of uvloop may be early
_MAX_NAMED = 10  # nodes in an error text
_PATIENCE_FOR_NAMES = 1.0  # seconds for the names of the services, if a registry lists no server

# Starts to open a connection to an endpoint. The first callback is told of its Hello, GoAway and
# end, the second takes load reports, the third is told when it is suspect and when no longer.
Dial = Callable[
    [
        Endpoint,
        Callable[[Connection], None],
        Callable[[Connection, bytes], None],
        Callable[[Connection], None],
    ],
    Awaitable[Connection],
]


class Ready(NamedTuple):
    """The ready set.

    Args:
        nodes: Those that may be picked.
        changing: Whether it will soon change by itself: the weight of a node still grows, an
            ejected one waits for its probe, or one was silent twice lately.
        panic: Whether so few nodes are healthy that health is ignored.
    """

    nodes: tuple[Node, ...]
    changing: bool
    panic: bool


def ready_nodes(nodes: Iterable[Node], now: float, slow_start: float) -> Ready:
    """Return the nodes that may be picked, and set their weights.

    Args:
        nodes: All nodes.
        now: Seconds on the monotonic clock.
        slow_start: Seconds over which the weight of a new node grows.
    """
    connected = [node for node in nodes if node.pool.conn is not None]
    serving = [node for node in connected if not node.listed_as_draining]
    healthy = [node for node in serving if node.breaker.available(now)]
    ejected = len(serving) - len(healthy)
    panic = is_panic(len(healthy), len(serving))
    if panic:
        healthy = serving
    healthy = _heard(healthy) or _heard(serving) or healthy
    steady = [node for node in healthy if not node.pool.is_held(now)]
    held = len(healthy) - len(steady)
    if not is_panic(len(steady), len(healthy)):
        healthy = steady
    newcomers = [node for node in healthy if node.since is None]
    loads = [node.stats for node in healthy]
    returned = [node for node in healthy if node.pool.was_silent and node.pool.take_silence()]
    if returned:
        prior = median_ewma(node.stats for node in healthy if node not in returned)
        for node in returned:
            node.stats.end_silence(now, prior)
    if newcomers:
        prior = median_ewma(loads)
        for node in newcomers:
            node.stats.assume(prior)
            node.join(now)
    ages = [(float(n.endpoint.weight), now - (n.since or now)) for n in healthy]
    weights = effective_weights(ages, slow_start)
    for node, weight in zip(healthy, weights, strict=True):
        if node.weight != weight:  # of a thousand few change
            node.set_weight(weight)
    changing = ejected > 0 or held > 0 or any(age < slow_start for _, age in ages)
    return Ready(tuple(healthy), changing, panic)


def _heard(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes that are not suspected to be gone."""
    return [node for node in nodes if not node.pool.suspect]


class Cluster:
    """The nodes of one service.

    Args:
        service: Name of the service; empty for a list of addresses.
        resolver: Where to watch the service.
        picker: Chooses the node of a call.
        dial: Opens a connection to an endpoint.
        config: Options of the client.
        clock: Source of time.
        rng: Source of randomness.

    Attributes:
        ready: The nodes that a call may go to now; replaced as a whole when one comes, goes or
            gets another weight, never changed.
        nodes: All nodes by id.
        counters: What has happened to the connections.
        waiters: Calls that wait for a node.
        loop: The event loop that it runs on.
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
        self._weights: list[float] = []  # of `ready`
        self.service = service
        self.loop = asyncio.get_running_loop()
        self.call_later = timer_of(clock, self.loop)
        self._resolver = resolver
        self._pick = picker.pick
        self._zones = picker if isinstance(picker, ZoneAware) else None
        self._spreads_streams = spreads_streams(picker)
        size = config.subset
        subset = None if size is None or needs_all(picker) else Subset(size, rng)
        self._subsetting = Subsetting(subset)
        self._max_in_flight = config.max_in_flight
        self._open_places = config.max_in_flight  # 0 while calls wait: new ones queue behind them
        self._dial = dial
        self._config = config
        self._clock = clock
        self._rng = rng
        self._listed: Snapshot = {}
        self._wanted: Snapshot = {}  # what subsetting has chosen
        self._known = False  # a first snapshot has come
        self._similar = ""  # a service whose name is similar, if that snapshot was empty
        self._queue = PickQueue(config.max_waiting, clock)
        self.waiters = self._queue.queue
        self._outlook = Outlook()  # of the calls that wait
        self._answer_due = NEVER  # when the registry should have answered
        self._ready_until = -inf  # when a server was last ready
        self._joining: Timer | None = None
        self._joined_at = inf  # see `_awaits_others`; inf while no server is connected
        self._gathered_at = -inf  # when servers that start together are all expected to be ready
        self._most_ready = (0, -inf)  # servers that were ready at a time lately, and when
        self._comparison: Comparison | None = None
        self._breaker_policy = BreakerPolicy(
            failures=config.eject_after, success_rate=config.eject_below, pause=config.eject_pause
        )
        self._waiting_in_sessions = 0
        self._watching: asyncio.Task[None] | None = None
        self._comparing: asyncio.Task[None] | None = None
        self._not_compared = False  # there is a connection whose server was not asked yet
        self._retiring: dict[asyncio.Task[None], Node] = {}
        self._left: dict[str, tuple[float, str, float]] = {}  # by id: when, see `Node.remember`
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._closed = False
        self._handle_suspicion: Callable[[Node, Connection], object] | None = None
        self._on_loop_end: Callable[[], Callable[[], object] | None] | None = None
        self._on_listed: Callable[[Snapshot], object] | None = None

    # For calls.

    def start(self) -> None:
        """Watch the service and connect to its servers, in the background."""
        self._answer_due = self._clock.monotonic() + self._config.connect_timeout
        self._watching = start_task(self._watch(), name=f"rap watch {self.service}")

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
            self._use_probe(node)
        if node.stats.in_flight >= self._open_places:
            node = min(ready, key=lambda each: each.stats.in_flight)
            if node.stats.in_flight >= self._open_places:
                return None
        return node

    def place_stream(self, picked: Node, exclude: frozenset[str]) -> Node:
        """Return the node with the fewest streams for its weight, of those as good as the picked.

        Args:
            picked: What `pick` or `acquire` has returned.
            exclude: Ids of nodes to avoid.
        """
        if not self._spreads_streams or picked.breaker.state is not _CLOSED:
            return picked
        crowd, zone = picked.crowd, picked.zone
        others = [
            node
            for node in self.ready
            if node.crowd < crowd
            and node.key not in exclude
            and node.takes_stream()
            and (self._zones is None or node.zone == zone)
            and node.stats.resembles(picked.stats)
        ]
        if not others:
            return picked
        least = min([node.crowd for node in others])
        others = [node for node in others if node.crowd == least]
        return others[int(self._rng.random() * len(others))]

    def pick_alive(
        self, affinity: str | None, exclude: frozenset[str], within: float
    ) -> Node | None:
        """Return a node that is known to be alive and takes a call now; `None` if there is none.

        Args:
            affinity: See `pick`.
            exclude: Ids of nodes that do not come into question.
            within: Seconds within which it must have answered if calls wait for it.
        """
        now, limit = self._clock.monotonic(), self._open_places
        alive = tuple(
            node
            for node in self.ready
            if node.key not in exclude and node.takes_copy(now, within, limit)
        )
        if not alive:
            return None
        node = self._pick(alive, affinity)
        if node.breaker.state is not _CLOSED:
            self._use_probe(node)
        return node

    def _use_probe(self, node: Node) -> None:
        """Let a call be the probe of an ejected node."""
        node.breaker.allow(self._clock.monotonic())
        self._refresh_soon(0.0)

    async def connect(self, chosen: WaitForReady = True) -> None:
        """Return when a server is ready; wait for `connect_timeout` at most.

        Args:
            chosen: As in `acquire`.

        Raises:
            CallError: See `acquire`.
        """
        began = self._clock.monotonic()
        limit = began + self._config.connect_timeout
        reminder = self.call_later(_SILENT, self._log_wait, limit)
        try:
            await self._acquire(Patience(began, limit, chosen, is_call=False))
        finally:
            reminder.cancel()

    def _log_wait(self, limit: float) -> None:
        """Say that `connect` waits, for what and for how long; it would be silent otherwise."""
        left = limit - self._clock.monotonic()
        if left > _SILENT:  # else the error says it soon
            text = "%s; waiting for another %.3g s (option connect_timeout)"
            _log.warning(text, self.describe(), left)

    async def acquire(
        self,
        deadline: float,
        affinity: str | None = None,
        exclude: frozenset[str] = frozenset(),
        method: str = "",
        chosen: WaitForReady = None,
    ) -> tuple[Node, Connection]:
        """Return a node and a connection of it; wait for them as long as the caller has chosen.

        Args:
            deadline: Seconds on the monotonic clock; `NEVER`: wait `connect_timeout`, or without
                limit if that was chosen.
            affinity: See `pick`.
            exclude: See `pick`.
            method: What is called, for the error; empty for no call.
            chosen: The option ``wait_for_ready`` of the call; `None`: that of the client.

        Raises:
            DeadlineExceeded: It was too late from the start.
            Unavailable: There was none in time; says what is wrong with each.
            Unauthenticated: Every server rejects this client.
            VersionMismatch: No server speaks a version of the protocol that this client speaks.
            ResourceExhausted: Too many calls wait already.
        """
        began, is_call = self._clock.monotonic(), deadline != NEVER
        if deadline <= began:
            text = f"{method}: the deadline passed before it was sent"
            raise DeadlineExceeded(text, unserved=True)
        chosen = self._config.wait_for_ready if chosen is None else chosen
        if not is_call and chosen is not True:
            deadline = began + self._config.connect_timeout
        patience = Patience(began, deadline, chosen, is_call=is_call)
        return await self._acquire(patience, affinity, exclude, method)

    async def _acquire(
        self,
        patience: Patience,
        affinity: str | None = None,
        exclude: frozenset[str] = frozenset(),
        method: str = "",
    ) -> tuple[Node, Connection]:
        has_waited = False
        while not self._closed:
            node = (self._pick_in_turn if has_waited else self.pick)(affinity, exclude)
            if node is None:
                try:
                    await self._wait(patience, has_waited)
                    has_waited = True
                except TimeoutError:
                    now = self._clock.monotonic() + _EARLY
                    waited = patience.describe(now, self._outlook)
                    what = f"{method}: " if method else ""
                    text = f"{what}{self.describe()}; {waited}"
                    raise Unavailable(text, unserved=True) from None
                continue
            conn = node.pool.conn
            if conn is not None and conn.usable and has_room(conn):
                return node, conn
            node.pool.refresh()
            if node.pool.conn is not None:
                return node, node.pool.conn
            self._refresh()
        raise _closed_error(self.loop)

    def _pick_in_turn(self, affinity: str | None, exclude: frozenset[str]) -> Node | None:
        """Return the node for a call that has waited, although others still wait."""
        places, self._open_places = self._open_places, self._max_in_flight
        try:
            return self.pick(affinity, exclude)
        finally:
            self._open_places = places

    async def _wait(self, patience: Patience, has_waited: bool) -> None:
        """Return when it is this call's turn to pick again; see `PickQueue.wait`."""
        if denial := _denial_of(self.nodes.values()):
            raise type(denial)(str(denial), remote=denial.remote, unserved=True)
        if not self.ready and not self.waiters:  # the first one; `_refresh` sees to later dials
            self._hurry_dials()
        self._outlook = self._look_ahead()
        now = self._clock.monotonic()
        if self._is_joining:
            until = patience.until(self._outlook)
            if until < now + _TIME_TO_JOIN or self._queue.is_full:
                self._stop_joining()
                return
        wait = 0.0
        if not self._outlook.full:
            self._queue.forget_pace(now)  # a server that comes back takes many calls at once
            if outer := running_call():
                outer.excuse()
        elif not has_waited:
            wait = self._queue.expected_wait(now)
        if patience.until(self._outlook) <= now + wait:
            raise TimeoutError
        self._look_for_room()
        self._open_places = 0
        try:
            await self._queue.wait(lambda: patience.until(self._outlook), first=has_waited)
        finally:
            if not (self._queue.queue or self._queue.called):
                self._open_places = self._max_in_flight
        if self._outlook.full and patience.until(self._outlook) <= self._clock.monotonic():
            self._queue.wake()  # it is too late for this one
            raise TimeoutError

    def _look_ahead(self) -> Outlook:
        """Return what calls may hope for that find no server."""
        nodes = self.nodes.values()
        if self.ready or any(node.pool.full for node in nodes):
            known = [node.stats.ewma for node in self.ready if node.stats.measured]
            return Outlook(full=True, latency=_rounded(min(known, default=0.0)))
        if not self._known:  # by then it is as if the registry had answered with no server
            return Outlook(False, self._answer_due, self._answer_due, self._ready_until)
        dialled = [node for node in nodes if node.pool.wanted and not node.listed_as_draining]
        has_failed = all(node.pool.failed for node in dialled)
        is_tried = all(node.pool.tried for node in dialled)
        return Outlook(
            False, -inf if has_failed else inf, -inf if is_tried else inf, self._ready_until
        )

    async def wait_for_room(self, conn: Connection, deadline: float) -> bool:
        """Wait until a connection takes one more call of a session; return whether it does.

        Args:
            conn: The connection of the session, where its calls have to go.
            deadline: Seconds on the monotonic clock; `NEVER`: wait `connect_timeout`.
        """
        if self._waiting_in_sessions >= self._config.max_waiting:
            return False
        limit = deadline
        if deadline == NEVER:
            limit = self._clock.monotonic() + self._config.connect_timeout
        self._waiting_in_sessions += 1
        try:
            while not (conn.closed or has_room(conn)):
                if self._clock.monotonic() >= limit:
                    return False
                await self._clock.sleep(_FULL_STEP)
        finally:
            self._waiting_in_sessions -= 1
        return True

    def _places(self) -> int:
        """Return how many calls the ready servers take now."""
        return sum(
            min(self._max_in_flight - node.stats.in_flight, node.pool.room)
            for node in self.ready
            if node.stats.in_flight < self._max_in_flight
        )

    def release(self) -> None:
        """Let the next waiting call go on: one has ended."""
        if any(node.pool.full for node in self.nodes.values()):
            self._refresh()  # lets as many go on as there is room for now
        else:
            self._queue.wake()

    def has_room(self, exclude: frozenset[str]) -> bool:
        """Whether a node takes one more call now, or will when the dial under way succeeds."""
        for key, node in self.nodes.items():
            node.pool.refresh()
            conn = node.pool.conn
            if node.pool.full or (key not in exclude and conn is not None and has_room(conn)):
                return True
        return False

    def all_refuse(self) -> bool:
        """Whether every ready node asked for no more calls, as of now."""
        now = self._clock.monotonic()
        for node in self.ready:  # a generator expression takes three times as long
            if node.refused_until <= now:
                return False
        return True

    def is_gathering(self) -> bool:
        """Whether the first server has just become ready, and others are about to.

        They are still connected to, or they were ready before all were away.
        """
        if self._clock.monotonic() >= self._gathered_at:
            return False
        if len(self.ready) < self._most_ready[0]:
            return True
        pools = (node.pool for node in self.nodes.values() if not node.listed_as_draining)
        return any(pool.wanted and not pool.connections and pool.denial is None for pool in pools)

    def refusing(self) -> frozenset[str]:
        """Return the ids of the ready nodes that asked for no more calls, as of now."""
        now = self._clock.monotonic()
        return frozenset(node.key for node in self.ready if node.refused_until > now)

    def attempts_by_node(self) -> list[tuple[str, int]]:
        """Return how many attempts each node was given so far, by its id."""
        return [(key, node.pool.calls) for key, node in self.nodes.items()]

    def describe(self) -> str:
        """Return one sentence on what is wrong with each node; with the first ones of many."""
        of = f" of service {self.service!r}" if self.service else ""
        nodes = self.nodes.values()
        if not nodes:
            why = "the registry lists none" if self._known else "the registry has not answered"
            if self._known and self._ready_until > -inf:
                why += " now"
            if last_error := last_error_of(self._resolver):
                return f"no server{of}: {why}: {last_error}"
            place = place_of(self._resolver) if self._known else ""
            return f"no server{of}: {why}" + (f" ({place})" if place else "") + self._advice()
        reasons: dict[str, list[str]] = {}
        for node in islice(nodes, _MAX_NAMED):
            full = node.stats.in_flight >= self._max_in_flight
            why = "its max_in_flight is reached" if full else node.describe()
            reasons.setdefault(why, []).append(node.key)
        parts = [f"{', '.join(keys)} ({why})" for why, keys in reasons.items()]
        if len(nodes) > _MAX_NAMED:
            parts.append(f"and {len(nodes) - _MAX_NAMED} more")
        return f"no usable server{of}{self._said_by_registry()}: " + "; ".join(parts)

    def _said_by_registry(self) -> str:
        """Return whether the registry lists none of the nodes any more, or only doubtful ones."""
        states = {endpoint.state for endpoint in self._listed.values()}
        if not self.service or not self._known or State.UP in states:
            return ""
        if not states:
            return ", the registry lists none now"
        return f", the registry lists only {' and '.join(sorted(states))} ones"

    def _advice(self) -> str:
        """Return what to do if the registry lists no server."""
        if not self._known or not self.service:
            return ""
        if self._similar:
            return f"; did you mean {self._similar!r}?"
        if self._ready_until > -inf:  # there was one, so it is known how
            return "; start one"
        return f"; start a server with service={self.service!r} and this registry"

    async def close(self) -> None:
        """Stop watching and close every connection; calls that wait fail. May be called again."""
        self._closed = True
        self.ready = ()
        for timer in (self._timer, self._joining):
            if timer is not None:
                timer.cancel()
        self._timer = self._joining = None
        self._queue.fail(_closed_error(self.loop))
        ours = (self._watching, self._comparing, *self._retiring)
        tasks = [task for task in ours if task is not None]
        pools = self._pools()
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
            await asyncio.gather(*(pool.close() for pool in pools))
        except asyncio.CancelledError:  # the caller cannot wait, but wants it closed
            self._abort()
            raise
        self.nodes.clear()

    def notify_on_loop_end(self, reference: Callable[[], Callable[[], object] | None]) -> None:
        """Call a function if the event loop ends before this is closed.

        Args:
            reference: Returns the function; `None` if its object is gone.
        """
        self._on_loop_end = reference

    def let_go(self) -> None:
        """Close every connection without waiting; may be called in any thread."""
        if not (self._closed or self.loop.is_closed()):
            with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
                self.loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._abort()
        for task in (self._watching, self._comparing, *self._retiring):
            if task is not None:
                task.cancel()

    def _abort(self) -> None:
        self._closed = True
        for pool in self._pools():
            pool.abort()

    def _pools(self) -> list[Pool]:
        """Return the pools of all nodes, and of those that are being removed.

        A task that is cancelled before its first step closes nothing.
        """
        return [node.pool for node in (*self.nodes.values(), *self._retiring.values())]

    # From snapshots to nodes.

    async def _watch(self) -> None:
        try:
            while True:
                try:
                    await self._watch_once()
                except Exception:  # of a resolver of the user; the task goes on
                    _log.exception("watching %r failed", self.service)
                await self._clock.sleep(_WATCH_AGAIN)
        except asyncio.CancelledError:
            if not self._closed:  # the program ends without having closed its client
                self._abort()
                on_loop_end = None if self._on_loop_end is None else self._on_loop_end()
                if on_loop_end is not None:
                    on_loop_end()
            raise

    async def _watch_once(self) -> None:
        from rap.registry.process import without_ended  # loaded as late as the registry is asked

        watching: Any = self._resolver.watch(self.service or _UNNAMED)
        async with aclosing(watching) as snapshots:
            async for listed in snapshots:
                snapshot = without_ended(listed) if self.service else listed
                if not (snapshot or self._known) and self.service:
                    self._similar = await _similar_service(self._resolver, self.service)
                try:
                    self._apply(snapshot)
                except Exception:  # of a resolver or picker of the user; the watch goes on
                    _log.exception("a snapshot of %r could not be used", self.service)

    def _apply(self, listed: Snapshot) -> None:
        """Take a snapshot of the registry."""
        self._known = True
        self._listed = listed
        if self._set_nodes() or self.waiters:
            self._refresh()
        if self._on_listed is not None:
            self._on_listed(listed)

    def _set_nodes(self) -> bool:
        """Have a node for each server that subsetting chooses of those that are listed.

        Returns:
            Whether that may change the ready set. New nodes alone do not: they have no connection.
        """
        listed = self._listed
        wanted = self._subsetting.choose(listed, self.nodes)
        change = diff(self._wanted, wanted)
        lost = sum(endpoint.id not in listed for endpoint in change.removed)
        mass_loss = lost * 2 > len(self._wanted)
        self._wanted = dict(wanted)
        changed = bool(change.updated or change.removed)
        for endpoint in change.added:
            known = self.nodes.get(endpoint.id)
            if known is None:
                self._add(endpoint)
            else:
                self._update(known, endpoint)
                changed = True
        for endpoint in change.updated:
            self._update(self.nodes[endpoint.id], endpoint)
        for endpoint in change.removed:
            node = self.nodes.get(endpoint.id)
            if node is not None:
                if endpoint.id in listed:
                    self._remove(node)  # another one took its place in the subset
                else:
                    self._lose(node, mass_loss)
        self._choose_dials()
        return changed

    def _add(self, endpoint: Endpoint) -> None:
        pool = Pool(
            endpoint.id,
            lambda: self._dial(
                node.endpoint,
                pool.on_connection,
                node.take_report,
                lambda conn: self._on_suspicion(node, conn),
            ),
            lambda conn: self._admit(node, conn),
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
            compared=self._compare_nodes if self._config.eject_excess < 1 else None,
            policy=self._breaker_policy,
        )
        known = self._left.pop(endpoint.id, None)
        if known is not None:
            _, incarnation, since = known
            node.remember(incarnation, since)
        self.nodes[endpoint.id] = node

    @property
    def listed(self) -> Snapshot:
        """The servers that the registry lists."""
        return self._listed

    def notify_on_listed(self, callback: Callable[[Snapshot], object]) -> None:
        """Call a function with each snapshot of the registry; it must not keep the client alive."""
        self._on_listed = callback

    def handle_suspicions(self, handle: Callable[[Node, Connection], object]) -> None:
        """Call a function when a connection is suspect, and when it was heard again."""
        self._handle_suspicion = handle

    def _on_suspicion(self, node: Node, conn: Connection) -> None:
        node.pool.on_suspicion(conn)
        if self._handle_suspicion is not None:
            self._handle_suspicion(node, conn)

    def _compare_nodes(self) -> "Comparison":
        """Return what compares the nodes; it is made when the first call has failed."""
        if self._comparison is None:
            from rap.balance import Comparison, ComparisonPolicy  # not needed while nothing fails

            policy = ComparisonPolicy(excess=self._config.eject_excess)
            self._comparison = Comparison(policy)
        return self._comparison

    def _may_eject(self) -> bool:
        out = sum(node.breaker.state is BreakerState.OPEN for node in self.nodes.values())
        return out < ejection_limit(len(self.nodes), self._config.max_ejected)

    def _update(self, node: Node, endpoint: Endpoint) -> None:
        if node.update(endpoint):
            node.pool.drain()
        if endpoint.state is State.UP:
            node.pool.reset_backoff()

    def _lose(self, node: Node, mass_loss: bool) -> None:
        """Act on a node that left the registry; a connection that works keeps it in place."""
        node.leave()
        node.pool.set_wanted(False)
        if node.state == "draining":
            self._remove(node)
        elif mass_loss and not node.alive:
            node.keep(self._clock.monotonic() + _LAST_CHOICE)
            node.pool.set_wanted(True)

    def _remove(self, node: Node) -> None:
        if self.nodes.get(node.key) is node:
            del self.nodes[node.key]
            self._note_leave(node)
            node.pool.set_wanted(False)
            node.pool.drain()
            task = start_task(self._retire(node), name=f"rap retire {node.key}")
            self._retiring[task] = node
            task.add_done_callback(self._retiring.pop)

    def _note_leave(self, node: Node) -> None:
        """Remember a process that has left: it may have been frozen, or cut off, and come back."""
        now = self._clock.monotonic()
        self._left = {key: each for key, each in self._left.items() if each[0] > now - _REMEMBERED}
        if node.since is not None:
            self._left[node.key] = (now, node.incarnation, node.since)

    async def _retire(self, node: Node) -> None:
        """Wait for the calls on a removed node to finish."""
        ends = [conn.ended for conn in node.pool.connections]
        try:
            if ends:
                await asyncio.wait(ends)
        finally:
            await node.pool.close()

    def _choose_dials(self) -> None:
        """Keep connections to nodes that are UP.

        Suspects are dialled only if fewer than half are UP, and draining ones only if there are no
        others: they may have been killed and started again.
        """
        states = [endpoint.state for endpoint in self._wanted.values()]
        dialled = {State.UP}
        if states.count(State.UP) * 2 < len(states):
            dialled.add(State.SUSPECT)
        if states.count(State.DRAINING) == len(states):
            dialled.add(State.DRAINING)
        for key, endpoint in self._wanted.items():
            wanted = endpoint.state in dialled
            pool = self.nodes[key].pool
            if pool.wanted != wanted:  # of a thousand few change
                pool.set_wanted(wanted)

    # From nodes to the ready set.

    def _admit(self, node: Node, conn: Connection) -> bool:
        """Take a new connection; return whether the older ones lead to another process.

        Raises:
            ConnectionClosed: It is of no use.
        """
        hello = conn.peer_hello
        error = self._refusal(node, conn, hello.get("service"))
        if error is not None:
            conn.abort(error)
            raise error
        if self._subsetting.active:
            self._subsetting.on_connected()
            self._compare_clients_soon()
        restarted = node.on_hello(hello.get("incarnation"))
        return restarted and bool(self.service)  # a fixed address may stand for several servers

    def _refusal(self, node: Node, conn: Connection, serves: object) -> ConnectionClosed | None:
        """Return why a connection to a server that serves this is of no use; `None` if it is."""
        if self.service and serves != self.service:
            found = one_line(repr(serves))
            text = (
                f"{node.key} serves {found}, not {self.service!r}; does another server run there?"
            )
            return ConnectionClosed(text)
        if conn.draining and conn.error is not None:
            return ConnectionClosed(str(conn.error))  # by middleware, with a reason
        return ServerDraining(f"{node.key} is draining") if conn.draining else None

    def _refresh(self) -> None:
        """Work out the ready set."""
        if self._closed:
            return
        now = self._clock.monotonic()
        for node in list(self.nodes.values()):
            if node.leaving and not node.alive:
                if now >= node.keep_until:
                    self._remove(node)
                else:
                    self._refresh_soon(node.keep_until - now)
            elif node.pool.connections and not node.pool.has_room:
                node.pool.refresh()
        slow_start, subsetting = self._config.slow_start, self._subsetting
        nodes, changing, panic = ready_nodes(self.nodes.values(), now, slow_start)
        if subsetting.active and subsetting.replace_lost(self.nodes, len(nodes), now):
            self._set_nodes()
            nodes, changing, panic = ready_nodes(self.nodes.values(), now, slow_start)
        if not nodes:
            self._joined_at = inf
        elif not self.ready and self._awaits_others(now):
            nodes = ()
        weights = [node.weight for node in nodes]
        if nodes != self.ready or weights != self._weights:  # pickers know it by identity
            if self.ready and not nodes:
                self._ready_until = now
            elif nodes and not self.ready:
                self._gathered_at = now + _GATHERING
            most, at = self._most_ready
            is_past = now > max(at + _FORMER, self._gathered_at)
            if self.ready and (len(self.ready) >= most or is_past):
                self._most_ready = (len(self.ready), now)  # until now
            self.ready, self._weights = nodes, weights
        if self._zones is not None:
            self._zones.plan(self.ready, panic)
        if changing:
            self._refresh_soon(_RAMP_STEP)
        if self.waiters:
            if _denial_of(self.nodes.values()):
                self._queue.wake_all()
            elif nodes:
                self._queue.wake(self._places(), extra=1)  # that one lets a full pool dial
            else:
                self._hurry_dials()
            outlook = self._look_ahead()
            if outlook != self._outlook:
                self._outlook = outlook
                self._queue.retime()
            self._look_for_room()

    def _awaits_others(self, now: float) -> bool:
        """Return whether calls do not go to the first server yet, because others are due.

        All servers are dialled at once. Without this, the calls that a client makes first would all
        go to the server that answered first, and streams would stay there. A server that does not
        answer holds them up for a moment only. Envoy warms a cluster up for the same reason.
        """
        pools = (node.pool for node in self.nodes.values())
        if all(pool.tried for pool in pools if pool.wanted):
            return False
        if self._joined_at == inf:
            if self._queue.earliest() < now + _TIME_TO_JOIN:
                return False
            self._joined_at = now + _JOINING
            self._joining = self.call_later(_JOINING, self._stop_joining)
        return now < self._joined_at

    @property
    def _is_joining(self) -> bool:
        """Whether a server is connected, and calls wait for others; see `_awaits_others`."""
        return not self.ready and -inf < self._joined_at < inf

    def _stop_joining(self) -> None:
        """Wait for no more servers than those that are connected."""
        if self._is_joining:
            self._joined_at = -inf
            self._refresh()

    def _hurry_dials(self) -> None:
        """Dial every server soon: a call waits, and there is none that it could go to."""
        for node in self.nodes.values():
            node.pool.hurry()

    def _look_for_room(self) -> None:
        """While calls wait for a place, look now and then whether a stream has ended."""
        if self.ready or any(node.pool.full for node in self.nodes.values()):
            self._refresh_soon(_FULL_STEP)

    def _refresh_soon(self, delay: float) -> None:
        when = self._clock.monotonic() + delay  # the timer handles of uvloop do not have it
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._refresh()

    # A subset: servers may have too many clients.

    def _compare_clients_soon(self) -> None:
        self._not_compared = True
        if not self._closed and (self._comparing is None or self._comparing.done()):
            self._comparing = start_task(self._compare_clients(), name="rap subset")

    async def _compare_clients(self) -> None:
        """Ask the servers how many clients they have, and leave some of those with too many."""
        while self._not_compared:
            await self._clock.sleep(_SETTLED)
            self._not_compared = False
            since = self._clock.monotonic() - _RECENT
            for node in self.nodes.values():
                node.request_load_report()
            await self._clock.sleep(_REPORTED)
            try:
                if self._subsetting.judge(self.nodes, since) and self._set_nodes():
                    self._refresh()
            except Exception:  # of a background task, which goes on
                _log.exception("a subset of servers could not be chosen")


def _denial_of(nodes: Collection[Node]) -> Unauthenticated | VersionMismatch | None:
    """Return why no server takes this client, if that is so for all of them."""
    denials = [node.pool.denial for node in nodes]
    return denials[0] if all(denials) and denials else None


def _rounded(seconds: float) -> float:
    """Return a time rounded up to a power of two, so that it seldom changes."""
    return ldexp(1.0, frexp(seconds)[1]) if seconds else 0.0


def _closed_error(loop: asyncio.AbstractEventLoop) -> Unavailable:
    """Return the error of a call that finds the client closed, by its user or with its loop."""
    text = "the client was closed"
    if loop.is_closed():
        text += " with the event loop that it was connected in: keep it to one asyncio.run()"
    return Unavailable(text, unserved=True)


async def _similar_service(resolver: object, service: str) -> str:
    """Return the service of a registry whose name is most like that of a missing one, if any is."""
    list_services = getattr(resolver, "services", None)
    if list_services is None:
        return ""
    try:
        async with asyncio.timeout(_PATIENCE_FOR_NAMES):
            names = await list_services()
    except (RapError, TimeoutError):
        return ""
    from difflib import get_close_matches  # few programs need it

    others = [name for name in names if name != service]  # it may be known, without a server
    return next(iter(get_close_matches(service, others, 1)), "")
