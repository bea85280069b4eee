"""The way to Redis, and the only module that imports its client library.

A link is one server, a primary found by Sentinel, or a Cluster. What it adds to
redis-py is time: every command has its own short limit, so a server that is frozen costs no more
than one that is down; and after failures in a row the client is thrown away and everything is
looked up anew, since a client that holds on to a dead primary may do so for ever.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha1
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError

from rap.clock import Clock, SystemClock
from rap.deadline import check_timeout
from rap.errors import RegistryError
from rap.redis_url import RedisTarget

__all__ = ["Listener", "RedisLink", "Script"]

_DEFAULT_TIMEOUT = 1.0  # seconds for one command
_CONNECT_FACTOR = 3  # a new client may take so many times the limit of a command
_FAILURES_TO_RENEW = 2  # in a row
_PRIMARY_CHECK_INTERVAL = 5.0  # seconds between questions to Sentinel
_CLOSE_TIMEOUT = 0.5  # seconds

# What redis-py lets through when servers vanish; not all of it is its own.
_TROUBLE = (RedisError, RedisClusterException, OSError, EOFError)

# A key or an argument of a command.
Value = str | bytes | int | float


class Script:
    """A Lua script: sent by its digest, and in full to a server that does not know it yet."""

    __slots__ = ("digest", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisLink:
    """Commands and scripts on one Redis, each with a limit of time.

    It connects on first use, and anew after failures; a command that fails is the caller's to
    repeat. To be used in one event loop; any number of tasks may use it at once.

    Args:
        url: As in `rap.redis_url`.
        timeout: Seconds for one command, connecting included.
        clock: Time source of `age`.
        rng: Chance in the choice of nodes and in pauses.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = _DEFAULT_TIMEOUT,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.target = RedisTarget.parse(url)
        if check_timeout("timeout", timeout) is None:
            raise ValueError("timeout must be a number of seconds, got None")
        self._timeout = timeout
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._client: Any = None
        self._connecting: asyncio.Task[Any] | None = None
        self._primary: tuple[str, int] | None = None
        self._primary_asked = 0.0
        self._failures = 0
        self._answered = self._clock.monotonic()

    @property
    def degraded(self) -> bool:
        """Whether the last command got no answer."""
        return self._failures > 0

    @property
    def age(self) -> float:
        """Seconds since the last answer, or since the link was made."""
        return self._clock.monotonic() - self._answered

    async def call(self, *command: Value) -> Any:
        """Run one command and return its reply, text as bytes.

        Raises:
            RegistryError: No answer in time, no connection, or an error reply.
        """
        return await self._limited(lambda client: client.execute_command(*command))

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Value]) -> Any:
        """Run a script on the server that has `keys`, and return its reply.

        Raises:
            RegistryError: As `call`.
        """

        async def evaluate(client: Any) -> Any:
            try:
                return await client.evalsha(script.digest, len(keys), *keys, *args)
            except NoScriptError:
                return await client.eval(script.source, len(keys), *keys, *args)

        return await self._limited(evaluate)

    async def listen(self, channel: str) -> "Listener":
        """Return a connection of its own that is subscribed to a channel.

        A message published on a Cluster reaches every node, so any node will do.

        Raises:
            RegistryError: As `call`.
        """
        async with self._translated(_CONNECT_FACTOR * self._timeout):
            client = await self._server_for_listening()
            listener = Listener(client, self._timeout)
            try:
                await listener.subscribe(channel)
            except BaseException:
                await listener.aclose()
                raise
        return listener

    async def primary_moved(self) -> bool:
        """Return whether Sentinel names another primary than the one in use, and leave that.

        It asks at most every 5 s; without Sentinel, or when no sentinel answers, it has not moved.
        """
        now = self._clock.monotonic()
        if self._primary is None or now - self._primary_asked < _PRIMARY_CHECK_INTERVAL:
            return False
        old = self._primary
        with suppress(RegistryError):
            async with self._translated(self._timeout):
                if await self._find_primary() != old:
                    await self._drop(self._client)
                    return True
        return False

    async def aclose(self) -> None:
        """Close the connections; a later command opens new ones."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        await self._drop(self._client)

    async def _limited(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        client = None
        try:
            async with self._translated(self._timeout):
                client = self._client or await self._connect()
                reply = await work(client)
        except RegistryError as exc:
            self._failures += 1
            if self._failures >= _FAILURES_TO_RENEW or isinstance(exc.__cause__, ReadOnlyError):
                await self._drop(client)
            raise
        self._failures = 0
        self._answered = self._clock.monotonic()
        return reply

    @asynccontextmanager
    async def _translated(self, limit: float) -> AsyncIterator[None]:
        """Limit the time inside, and turn what can go wrong there into a RegistryError."""
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as exc:
            raise RegistryError(f"Redis at {self.target}: no answer in {limit:g} s") from exc
        except _TROUBLE as exc:
            raise RegistryError(f"Redis at {self.target}: {exc or type(exc).__name__}") from exc

    async def _connect(self) -> Any:
        """Return a new client; all who need one wait for the same, each as long as it may."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._open(), name="rap redis connect")
            self._connecting.add_done_callback(_take_exception)
        return await asyncio.shield(self._connecting)

    async def _open(self) -> Any:
        async with asyncio.timeout(_CONNECT_FACTOR * self._timeout):
            if self.target.kind == "cluster":
                client: Any = RedisCluster(
                    startup_nodes=[ClusterNode(*host) for host in self.target.hosts],
                    require_full_coverage=False,  # what other slots lack is not our trouble
                    **self._options(retries=1),
                )
                try:
                    await client.initialize()
                except BaseException:
                    await _close(client)
                    raise
            elif self.target.kind == "sentinel":
                client = self._server(await self._find_primary(), retries=1)
            else:
                client = self._server(None, retries=1)
        self._client = client
        return client

    def _server(self, host: tuple[str, int] | None, *, retries: int) -> Any:
        """Return a client of one server, not yet connected."""
        options = self._options(retries=retries)
        if self.target.kind != "cluster":
            options["db"] = self.target.db
        if self.target.kind == "unix":
            return Redis(unix_socket_path=self.target.path, **options)
        name, port = host or self.target.hosts[0]
        return Redis(host=name, port=port, **options)

    def _options(self, *, retries: int) -> dict[str, Any]:
        return {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "retry": Retry(NoBackoff(), retries),
            "protocol": 2,  # messages and pongs arrive alike whatever the server's age
            **self.target.credentials,
            **self.target.tls,
        }

    async def _server_for_listening(self) -> Any:
        # No retries: redis-py would resubscribe silently, and what came between would be lost.
        if self.target.kind == "sentinel":
            return self._server(await self._find_primary(), retries=0)
        if self.target.kind == "cluster":
            nodes = [(it.host, it.port) for it in self._client.get_nodes()] if self._client else []
            return self._server(self._rng.choice(nodes or self.target.hosts), retries=0)
        return self._server(None, retries=0)

    async def _find_primary(self) -> tuple[str, int]:
        """Ask all sentinels at once and believe the most: after a split some lag behind."""
        self._primary_asked = self._clock.monotonic()
        answers = await asyncio.gather(
            *(self._ask_sentinel(host) for host in self.target.hosts), return_exceptions=True
        )
        named = Counter(it for it in answers if isinstance(it, tuple))
        if not named:
            reasons = "; ".join(str(it) for it in answers if it is not None)
            raise RegistryError(
                f"no sentinel of {self.target} names a primary: {reasons or 'name unknown'}"
            )
        self._primary = named.most_common(1)[0][0]
        return self._primary

    async def _ask_sentinel(self, host: tuple[str, int]) -> tuple[str, int] | None:
        tls = self.target.tls
        never = Retry(NoBackoff(), 0)
        sentinel: Any = Redis(host=host[0], port=host[1], protocol=2, retry=never, **tls)
        async with sentinel:
            async with asyncio.timeout(self._timeout / 2):  # then the others' answers must do
                answer = await sentinel.execute_command(
                    "SENTINEL", "get-master-addr-by-name", self.target.primary
                )
        return (answer[0].decode(), int(answer[1])) if answer else None

    async def _drop(self, client: Any) -> None:
        """Forget a client, so that the next command begins anew, and close it."""
        if self._client is client:
            self._client = None
        if client is not None:
            await _close(client)


class Listener:
    """A connection that is subscribed to one channel; made by `RedisLink.listen`."""

    def __init__(self, client: Any, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._pubsub = client.pubsub()

    async def subscribe(self, channel: str) -> None:
        """Subscribe, and return when the server has said so."""
        await self._pubsub.subscribe(channel)
        while (message := await self._pubsub.get_message(timeout=self._timeout)) is not None:
            if message["type"] == "subscribe":
                return
        raise TimeoutError

    async def next(self, seconds: float) -> bytes | None:
        """Return the next message, empty for the answer to a `ping`; `None` after `seconds`.

        Raises:
            RegistryError: The connection is lost.
        """
        try:
            message = await self._pubsub.get_message(timeout=seconds)
        except _TROUBLE as exc:
            raise RegistryError(f"lost the subscription: {exc or type(exc).__name__}") from exc
        if message is None:
            return None
        return message["data"] if message["type"] == "message" else b""

    async def ping(self) -> None:
        """Ask the server for a sign of life.

        Raises:
            RegistryError: The connection is lost.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._pubsub.ping()
        except _TROUBLE as exc:
            raise RegistryError(f"lost the subscription: {exc or type(exc).__name__}") from exc

    async def aclose(self) -> None:
        """Close the connection."""
        await _close(self._pubsub)
        await _close(self._client)


async def _close(closable: Any) -> None:
    """Close something of redis-py; a server that no longer answers is none of our business."""
    with suppress(*_TROUBLE):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await closable.aclose()


def _take_exception(task: "asyncio.Task[Any]") -> None:
    """Read the outcome of a task whose waiters may all have given up."""
    if not task.cancelled():
        task.exception()
