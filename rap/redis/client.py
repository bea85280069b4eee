"""The client of Redis, and the only module that imports redis-py.

A `RedisClient` connects to one server, to a primary found by Sentinel, or to a Cluster. It adds
time limits to redis-py. Each command has a short limit, so a frozen server costs no more than one
that is down. After two failures in a row of one server, all servers are looked up again.

The Sentinel and Cluster clients of redis-py keep using dead servers, or never close some of their
connections. Therefore each server has a plain client here.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha1
from importlib.resources import files
from operator import methodcaller
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from rap.clock import Clock, SystemClock, check_timeout
from rap.errors import RegistryError
from rap.foreign import one_line
from rap.redis.servers import Host, Servers
from rap.redis.url import RedisTarget
from rap.tasks import start_task

__all__ = ["PubSub", "RedisClient", "Script", "WrongType"]

_DEFAULT_TIMEOUT = 1.0  # seconds for one command
_CONNECT_FACTOR = 3  # times the limit of a command that finding the servers may take
_FAILURES_TO_RECONNECT = 2  # in a row
_PRIMARY_CHECK_INTERVAL = 5.0  # seconds between queries to Sentinel
_CLOSE_TIMEOUT = 0.5  # seconds

# The exceptions that redis-py raises when servers vanish; some of them are not its own.
_ERRORS = (RedisError, OSError, EOFError)

_KINDS = {"zset": "sorted set"} | {it: it for it in ("string", "hash", "list", "set", "stream")}
_REMEDY = (
    "another program has written it; delete it (`DEL`) if nothing needs it, "
    "or use another database or namespace"
)

# A key or an argument of a command.
Value = str | bytes | int | float


class WrongType(RegistryError):
    """A key holds a value of another type, which another program has written."""


class Script:
    """A Lua script, sent by its digest, and in full to a server that does not know it yet.

    Args:
        source: The text of the script.
        kinds: The types of its keys, as ``TYPE`` names them; a key may also be missing.
    """

    __slots__ = ("digest", "kinds", "source")

    def __init__(self, source: str, kinds: Sequence[str] = ()) -> None:
        self.source = source
        self.kinds = kinds
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, package: str, *names: str, kinds: Sequence[str] = ()) -> "Script":
        """Return the script made of ``scripts/<name>.lua`` of a package, one after the other."""
        folder = files(package) / "scripts"
        return cls("\n".join((folder / f"{name}.lua").read_text() for name in names), kinds)


class RedisClient:
    """A client of one Redis, with a time limit for each command and script.

    It connects on first use, and reconnects after failures. It does not repeat a failed command.
    Use it in one event loop; any number of tasks may use it at once.

    Args:
        url: The URL of Redis, as in `rap.redis.url`.
        timeout: Seconds for one command, including the time to connect.
        clock: Time source of `age` and of the queries to Sentinel.
        rng: Random numbers for the choice of a node to subscribe to.
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
        """Whether the last command failed."""
        return self._failing

    @property
    def age(self) -> float:
        """Seconds since the last answer, or since this object was created."""
        return self._clock.monotonic() - self._answered

    async def call(self, *command: Value) -> Any:
        """Run a command whose second word is its key, and return its reply, with texts as bytes.

        Raises:
            WrongType: The key holds a value of another type; the message names both.
            RegistryError: There was no answer in time, no connection, or an error reply.
        """
        key = str(command[1])
        try:
            return await self._limited(key, lambda client: client.execute_command(*command))
        except WrongType as exc:
            raise await self._explained(exc, {key: ""}) from exc

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

        try:
            return await self._limited(keys[0], evaluate)
        except WrongType as exc:
            raise await self._explained(exc, dict(zip(keys, script.kinds, strict=False))) from exc

    async def foreign(self, kinds: Mapping[str, str]) -> str:
        """Return which keys hold a value of another type, and what to do; empty if none does.

        Without an answer, such as without the permission for ``TYPE``, it may be each of them.

        Args:
            kinds: The types of keys, as ``TYPE`` names them; an empty one is unknown.
        """
        found = []
        for key, kind in kinds.items():
            there, wanted = "value of another type", _KINDS.get(kind, "")
            with suppress(RegistryError):
                raw: bytes = await self._limited(key, methodcaller("execute_command", "TYPE", key))
                there = raw.decode(errors="replace")
                if there in ("none", kind):
                    continue
            text = f"the key {one_line(key)} holds a {_KINDS.get(there, there)}"
            found.append(f"{text}, not a {wanted}" if wanted else text)
        return f"{' or '.join(found)}: {_REMEDY}" if found else ""

    async def _explained(self, error: WrongType, kinds: Mapping[str, str]) -> WrongType:
        """Return an error that names the key, which the one of Redis does not."""
        text = await self.foreign(kinds)
        return WrongType(f"Redis at {self.target}: WRONGTYPE, {text}") if text else error

    async def subscribe(self, channel: str) -> "PubSub":
        """Return a new connection that is subscribed to a channel.

        In a Cluster, it is a connection to any node, because a message reaches every node.

        Raises:
            RegistryError: As `call`.
        """
        async with self._translated(_CONNECT_FACTOR * self._timeout):
            client = await self._server_for_listening()
            pubsub = PubSub(client, self._timeout, self._primary)
            try:
                await pubsub.subscribe(channel)
            except BaseException:  # raised again
                await pubsub.aclose()
                raise
        return pubsub

    async def primary_moved(self, pubsub: "PubSub") -> bool:
        """Return whether Sentinel names another primary than the one of a subscription.

        It queries Sentinel at most every 5 s. It returns false without Sentinel, or if no sentinel
        answers.
        """
        await self.check_primary()
        return pubsub.primary != self._primary

    async def check_primary(self) -> None:
        """Query Sentinel if the last query is 5 s old, and leave a primary that was replaced.

        Commands do this in the background. Call it before a command whose loss is noticed late.
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
            # A primary that was replaced may still answer, and what it is told is lost.
            self._looking = start_task(self._look_for_primary(), name="rap redis primary")
        try:
            async with self._translated(self._timeout):
                used = self._servers or await self._connect()
                try:
                    reply = await used.run(key, work)
                except (MovedError, ReadOnlyError):  # another server has the key now
                    await self._drop(used)
                    used = self._servers or await self._connect()
                    reply = await used.run(key, work)
        except WrongType:  # an answer: other connections would get the same
            self._failing = True
            raise
        except RegistryError:
            self._failing = True
            if used is not None and used.note_failure(key) >= _FAILURES_TO_RECONNECT:
                await self._drop(used)
            raise
        self._failing = False
        self._answered = self._clock.monotonic()
        return reply

    @asynccontextmanager
    async def _translated(self, limit: float) -> AsyncIterator[None]:
        """Limit the time of the body, and translate its errors into a `RegistryError`."""
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as exc:
            raise RegistryError(f"Redis at {self.target}: no answer in {limit:g} s") from exc
        except _ERRORS as exc:
            is_wrong_type = isinstance(exc, ResponseError) and "WRONGTYPE" in str(exc)
            kind = WrongType if is_wrong_type else RegistryError
            raise kind(f"Redis at {self.target}: {_text_of(exc)}") from exc

    async def _connect(self) -> "Servers":
        """Find the servers. All callers wait for the same task, each with its own time limit."""
        if self._connecting is None or self._connecting.done():
            self._connecting = start_task(self._find(), name="rap redis connect")
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
            # With a timeout, redis-py writes under `asyncio.wait_for`, which may swallow a
            # cancellation on Python 3.11. Each use here has a time limit anyway.
            "socket_timeout": None,
            "socket_connect_timeout": self._timeout,
            "retry": Retry(NoBackoff(), retries),
            "protocol": 2,  # messages and pongs have the same form for each release of the server
            **self.target.tls,
        }

    async def _server_for_listening(self) -> Any:
        # Without retries: redis-py would resubscribe silently, and messages would be lost.
        if self.target.kind == "sentinel":
            return self._server(await self._find_primary(), retries=0)
        servers = self._servers or await self._connect()
        return self._server(self._rng.choice(servers.hosts), retries=0)

    async def _find_primary(self) -> Host:
        """Ask all sentinels at once and believe the majority: after a split some lag behind."""
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
        """Whether it is time for the next query to Sentinel."""
        past = self._clock.monotonic() - self._primary_asked
        return self._primary is not None and past >= _PRIMARY_CHECK_INTERVAL

    async def _look_for_primary(self) -> None:
        """Leave a primary that Sentinel has replaced; do nothing if no sentinel answers."""
        with suppress(RegistryError):
            async with self._translated(self._timeout):
                await self._find_primary()

    async def _find_owners(self) -> Sequence[tuple[int, Host]]:
        """Return the first slot and the owner of each range of slots, by majority of the nodes."""
        answers = await self._ask(tuple(self._nodes), "CLUSTER", "SLOTS")
        seen = Counter(tuple(sorted(_owners(asked[0], reply))) for asked, reply in answers)
        if not seen:
            raise RegistryError(f"no node of {self.target} knows the owners of the slots")
        ranges = seen.most_common(1)[0][0]
        self._nodes |= dict.fromkeys(host for _, host in ranges)
        return ranges

    async def _ask(self, hosts: Sequence[Host], *command: str) -> list[tuple[Host, Any]]:
        """Send a command to several servers; return the answers that come in time."""
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
        """Drop the servers, so that the next command looks them up again."""
        if servers is not None:
            if self._servers is servers:
                self._servers = None
            await servers.close()


class PubSub:
    """A connection that is subscribed to one channel; see `RedisClient.subscribe`.

    Attributes:
        primary: The server it is connected to, if Sentinel named it.
    """

    def __init__(self, client: Any, timeout: float, primary: Host | None) -> None:
        self.primary = primary
        self._client = client
        self._timeout = timeout
        self._pubsub = client.pubsub()

    async def subscribe(self, channel: str) -> None:
        """Subscribe, and return when the server has confirmed it."""
        await self._pubsub.subscribe(channel)
        while (message := await self._pubsub.get_message(timeout=self._timeout)) is not None:
            if message["type"] == "subscribe":
                return
        raise TimeoutError

    async def next(self, seconds: float) -> bytes | None:
        """Return the next message, an empty one for a pong, or `None` after `seconds`.

        Raises:
            RegistryError: The connection is lost.
        """
        try:
            message = await self._pubsub.get_message(timeout=seconds)
        except _ERRORS as exc:
            raise RegistryError(f"lost the subscription: {_text_of(exc)}") from exc
        if message is None:
            return None
        return message["data"] if message["type"] == "message" else b""

    async def ping(self) -> None:
        """Send a ping.

        Raises:
            RegistryError: The connection is lost.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._pubsub.ping()
        except _ERRORS as exc:
            raise RegistryError(f"lost the subscription: {_text_of(exc)}") from exc

    async def aclose(self) -> None:
        """Close the connection."""
        await _close(self._pubsub)
        await _close(self._client)


def _owners(asked: str, reply: Any) -> Iterator[tuple[int, Host]]:
    """Yield the first slot and the owner of each range; a node may leave out its own host."""
    for first, _, (host, port, *_), *_ in reply:
        yield first, (host.decode() if host else asked, port)


async def _close(closable: Any) -> None:
    """Close an object of redis-py, even if its server no longer answers."""
    with suppress(*_ERRORS):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await closable.aclose()


def _text_of(exc: BaseException) -> str:
    text = (one_line(exc) or type(exc).__name__).rstrip(".")
    if isinstance(exc, AuthenticationError):
        return f"{text}; are user and password of the URL right?"
    if text.startswith(("Error ", "Connection closed by server")):  # it could not be reached
        return f"{text}; does a Redis server run there?"
    return text


def _take_exception(task: "asyncio.Task[Any]") -> None:
    """Retrieve the exception of a task whose waiters may all have timed out."""
    if not task.cancelled():
        task.exception()
