"""The way to Redis, and the only module that imports its client library.

A link is one server, a primary found by Sentinel, or a Cluster. What it adds to redis-py is time:
every command has its own short limit, so a server that is frozen costs no more than one that is
down; and after failures in a row of one server all are thrown away and looked up anew. That
goes for Sentinel and Cluster too, whose clients in redis-py hold on to dead servers, or close some
of their connections never: here each server has a plain client.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import MovedError, NoScriptError, ReadOnlyError, RedisError

from rap.clock import Clock, SystemClock, check_timeout
from rap.errors import RegistryError
from rap.redis.servers import Host, Servers
from rap.redis.url import RedisTarget

__all__ = ["PubSub", "RedisClient", "Script"]

_DEFAULT_TIMEOUT = 1.0  # seconds for one command
_CONNECT_FACTOR = 3  # a new client may take so many times the limit of a command
_FAILURES_TO_RENEW = 2  # in a row
_PRIMARY_CHECK_INTERVAL = 5.0  # seconds between questions to Sentinel
_CLOSE_TIMEOUT = 0.5  # seconds

# What redis-py lets through when servers vanish; not all of it is its own.
_TROUBLE = (RedisError, OSError, EOFError)

# A key or an argument of a command.
Value = str | bytes | int | float


class Script:
    """A Lua script: sent by its digest, and in full to a server that does not know it yet."""

    __slots__ = ("digest", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, package: str, *names: str) -> "Script":
        """Return the script made of ``scripts/<name>.lua`` of a package, one after the other."""
        folder = files(package) / "scripts"
        return cls("\n".join((folder / f"{name}.lua").read_text() for name in names))


class RedisClient:
    """Commands and scripts on one Redis, each with a limit of time.

    It connects on first use, and anew after failures; a command that fails is the caller's to
    repeat. To be used in one event loop; any number of tasks may use it at once.

    Args:
        url: As in `rap.redis.url`.
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
        self._servers: Servers | None = None
        self._connecting: asyncio.Task[Servers] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._nodes: dict[Host, None] = dict.fromkeys(self.target.hosts)
        self._primary: Host | None = None
        self._primary_asked = 0.0
        self._failing = False
        self._answered = self._clock.monotonic()

    @property
    def degraded(self) -> bool:
        """Whether the last command got no answer."""
        return self._failing

    @property
    def age(self) -> float:
        """Seconds since the last answer, or since the link was made."""
        return self._clock.monotonic() - self._answered

    async def call(self, *command: Value) -> Any:
        """Run one command, whose second word is its key, and return its reply, text as bytes.

        Raises:
            RegistryError: No answer in time, no connection, or an error reply.
        """
        return await self._limited(str(command[1]), lambda client: client.execute_command(*command))

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

        return await self._limited(keys[0], evaluate)

    async def subscribe(self, channel: str) -> "PubSub":
        """Return a connection of its own that is subscribed to a channel.

        A message published on a Cluster reaches every node, so any node will do.

        Raises:
            RegistryError: As `call`.
        """
        async with self._translated(_CONNECT_FACTOR * self._timeout):
            client = await self._server_for_listening()
            listener = PubSub(client, self._timeout, self._primary)
            try:
                await listener.subscribe(channel)
            except BaseException:
                await listener.aclose()
                raise
        return listener

    async def primary_moved(self, listener: "PubSub") -> bool:
        """Return whether Sentinel names another primary than the one that is listened to.

        It asks at most every 5 s; without Sentinel, or when no sentinel answers, it has not moved.
        """
        await self.check_primary()
        return listener.primary != self._primary

    async def check_primary(self) -> None:
        """Ask Sentinel, if it was not asked for 5 s, and leave a primary that it has replaced.

        Commands do so beside their own work; this is for those whose loss is noticed late.
        """
        if self._primary_is_due():
            await self._look_for_primary()

    async def aclose(self) -> None:
        """Close the connections; a later command opens new ones."""
        for task in (self._connecting, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._drop(self._servers)

    async def _limited(self, key: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
        used: Servers | None = None
        if self._primary_is_due() and (self._looking is None or self._looking.done()):
            # One that was replaced may go on answering, and what it is told is lost.
            self._looking = asyncio.create_task(self._look_for_primary(), name="rap redis primary")
        try:
            async with self._translated(self._timeout):
                used = self._servers or await self._connect()
                try:
                    reply = await used.run(key, work)
                except (MovedError, ReadOnlyError):  # another server has the key now
                    await self._drop(used)
                    used = self._servers or await self._connect()
                    reply = await used.run(key, work)
        except RegistryError:
            self._failing = True
            if used is not None and used.note_failure(key) >= _FAILURES_TO_RENEW:
                await self._drop(used)
            raise
        self._failing = False
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
            raise RegistryError(
                f"Redis at {self.target}: {str(exc) or type(exc).__name__}"
            ) from exc

    async def _connect(self) -> "Servers":
        """Find the servers; all who need them wait for the same, each as long as it may."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._find(), name="rap redis connect")
            self._connecting.add_done_callback(_take_exception)
        return await asyncio.shield(self._connecting)

    async def _find(self) -> "Servers":
        async with asyncio.timeout(_CONNECT_FACTOR * self._timeout):
            ranges: Sequence[tuple[int, Host | None]]
            if self.target.kind == "cluster":
                ranges = await self._find_owners()
            elif self.target.kind == "sentinel":
                ranges = [(0, await self._find_primary())]
            else:
                ranges = [(0, self.target.hosts[0] if self.target.hosts else None)]
        self._servers = Servers(ranges, self._server, _close, key_slot)
        return self._servers

    def _server(self, host: Host | None, *, retries: int = 1) -> Any:
        """Return a client of one server, not yet connected; `None` for a unix socket."""
        options = self._options(retries) | {"db": self.target.db, **self.target.credentials}
        if host is None:
            return Redis(unix_socket_path=self.target.path, **options)
        return Redis(host=host[0], port=host[1], **options)

    def _options(self, retries: int) -> dict[str, Any]:
        return {
            # With a limit of its own redis-py writes under `asyncio.wait_for`, which on Python
            # 3.11 may swallow a cancellation; every use here has a limit around it anyway.
            "socket_timeout": None,
            "socket_connect_timeout": self._timeout,
            "retry": Retry(NoBackoff(), retries),
            "protocol": 2,  # messages and pongs arrive alike whatever the server's age
            **self.target.tls,
        }

    async def _server_for_listening(self) -> Any:
        # No retries: redis-py would resubscribe silently, and what came between would be lost.
        if self.target.kind == "sentinel":
            return self._server(await self._find_primary(), retries=0)
        servers = self._servers or await self._connect()
        return self._server(self._rng.choice(servers.hosts), retries=0)

    async def _find_primary(self) -> Host:
        """Ask all sentinels at once and believe the most: after a split some lag behind."""
        self._primary_asked = self._clock.monotonic()
        answers = await self._ask(
            self.target.hosts, "SENTINEL", "get-master-addr-by-name", self.target.primary
        )
        named = Counter((host.decode(), int(port)) for _, (host, port) in answers)
        if not named:
            raise RegistryError(f"no sentinel of {self.target} names a primary")
        self._primary = named.most_common(1)[0][0]
        if self._servers is not None and self._servers.hosts != [self._primary]:
            await self._drop(self._servers)
        return self._primary

    def _primary_is_due(self) -> bool:
        """Whether it is time to ask Sentinel again."""
        past = self._clock.monotonic() - self._primary_asked
        return self._primary is not None and past >= _PRIMARY_CHECK_INTERVAL

    async def _look_for_primary(self) -> None:
        """Leave a primary that Sentinel has replaced; if no sentinel answers, all stays."""
        with suppress(RegistryError):
            async with self._translated(self._timeout):
                await self._find_primary()

    async def _find_owners(self) -> Sequence[tuple[int, Host]]:
        """Return first slot and owner of each range of slots, as most of the nodes see it."""
        answers = await self._ask(tuple(self._nodes), "CLUSTER", "SLOTS")
        seen = Counter(tuple(sorted(_owners(asked[0], reply))) for asked, reply in answers)
        if not seen:
            raise RegistryError(f"no node of {self.target} tells who has which slots")
        ranges = seen.most_common(1)[0][0]
        self._nodes |= dict.fromkeys(host for _, host in ranges)
        return ranges

    async def _ask(self, hosts: Sequence[Host], *command: str) -> list[tuple[Host, Any]]:
        """Ask servers for where the others are; return the answers that are in in time."""
        options = self._options(0)
        if self.target.kind != "sentinel":
            options |= self.target.credentials

        async def ask(host: Host) -> tuple[Host, Any]:
            server: Any = Redis(host=host[0], port=host[1], **options)
            try:
                async with asyncio.timeout(self._timeout / 2):
                    return host, await server.execute_command(*command)
            finally:
                await _close(server)

        answers = await asyncio.gather(*map(ask, hosts), return_exceptions=True)
        return [it for it in answers if isinstance(it, tuple) and it[1]]

    async def _drop(self, servers: "Servers | None") -> None:
        """Forget servers, so that the next command looks for them anew."""
        if servers is not None:
            if self._servers is servers:
                self._servers = None
            await servers.close()


class PubSub:
    """A connection that is subscribed to one channel; made by `RedisClient.subscribe`.

    Attributes:
        primary: Where it leads, if Sentinel said so.
    """

    def __init__(self, client: Any, timeout: float, primary: Host | None) -> None:
        self.primary = primary
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
            raise RegistryError(f"lost the subscription: {str(exc) or type(exc).__name__}") from exc
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
            raise RegistryError(f"lost the subscription: {str(exc) or type(exc).__name__}") from exc

    async def aclose(self) -> None:
        """Close the connection."""
        await _close(self._pubsub)
        await _close(self._client)


def _owners(asked: str, reply: Any) -> Iterator[tuple[int, Host]]:
    """Yield first slot and owner of each range; a node may leave out its own name."""
    for first, _, (host, port, *_), *_ in reply:
        yield first, (host.decode() if host else asked, port)


async def _close(closable: Any) -> None:
    """Close something of redis-py; a server that no longer answers is none of our business."""
    with suppress(*_TROUBLE):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await closable.aclose()


def _take_exception(task: "asyncio.Task[Any]") -> None:
    """Read the outcome of a task whose waiters may all have given up."""
    if not task.cancelled():
        task.exception()
