"""The network between clients and the replicas that may be cut off.

Where it is allowed, each of these replicas has a network namespace with a pair of virtual
interfaces, and packets vanish as on a broken network: the one end sends them to a wrong hardware
address. Elsewhere a proxy stands before each replica.
"""

import asyncio
import os
import shutil
import socket
import struct
from abc import ABC, abstractmethod
from enum import Flag, auto
from random import SystemRandom
from typing import NamedTuple, Self

from tests.fault_proxy import Fate, FaultProxy
from tests.ports import free_port

__all__ = ["Namespaces", "Network", "Place", "Proxies", "Way", "namespaces_work"]

_NOWHERE = "02:00:00:00:00:01"  # a hardware address that no interface has
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class Way(Flag):
    """Directions of packets, as a replica sees them."""

    IN = auto()
    OUT = auto()
    BOTH = IN | OUT


class Place(NamedTuple):
    """Where a replica runs.

    Args:
        listen: Address to listen on.
        advertise: Address that clients dial; empty: the same.
        prefix: What its command begins with.
    """

    listen: str
    advertise: str = ""
    prefix: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The address by which clients know it."""
        return self.advertise or self.listen


class Network(ABC):
    """Places of replicas, and what can happen to the network of some of them.

    Attributes:
        host: Address for everything that all replicas must reach.
        name: How it is done, for the report.
    """

    host = "127.0.0.1"
    name = ""

    @abstractmethod
    def place(self, number: int) -> Place:
        """Return the place of one of the replicas that can be cut off."""

    @abstractmethod
    async def cut(self, number: int, way: Way) -> None:
        """Let packets vanish without a sign."""

    @abstractmethod
    async def heal(self, number: int) -> None:
        """Let all packets pass again."""

    @abstractmethod
    async def reset(self, number: int) -> None:
        """End the connections of a replica with RST."""

    async def __aenter__(self) -> Self:
        return self

    @abstractmethod
    async def __aexit__(self, *_: object) -> None: ...


async def namespaces_work() -> bool:
    """Return whether this process may create network namespaces and end connections."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("ss")):
        return False
    name = f"rapchaos{os.getpid()}"
    if await _run("ip", "netns", "add", name, check=False):
        return False
    await _run("ip", "netns", "del", name)
    return True


class Namespaces(Network):
    """A network namespace for each replica.

    Args:
        count: How many replicas there are.
    """

    name = "network namespaces"

    def __init__(self, count: int) -> None:
        self._count = count
        self._net = f"10.{SystemRandom().randrange(100, 250)}"
        self._names = [f"rapc{os.getpid()}n{number}" for number in range(count)]
        self._ports = [free_port() for _ in range(count)]
        self.host = self._outer(0)

    def place(self, number: int) -> Place:
        """Return the place of one of the replicas that can be cut off."""
        prefix = ("ip", "netns", "exec", self._names[number])
        return Place(f"{self._inner(number)}:{self._ports[number]}", "", prefix)

    async def cut(self, number: int, way: Way) -> None:
        """Let packets vanish without a sign."""
        if Way.IN in way:
            await self._mislead((), self._inner(number), self._names[number])
        if Way.OUT in way:
            await self._mislead(("-n", self._names[number]), self._outer(number), "eth0")

    async def heal(self, number: int) -> None:
        """Let all packets pass again."""
        name = self._names[number]
        await _run("ip", "neigh", "del", self._inner(number), "dev", name, check=False)
        gone = ("neigh", "del", self._outer(number), "dev", "eth0")
        await _run("ip", "-n", name, *gone, check=False)

    async def reset(self, number: int) -> None:
        """End the connections of a replica with RST."""
        kill = ("ss", "--no-header", "--kill", "sport", "=", f":{self._ports[number]}")
        await _run("ip", "netns", "exec", self._names[number], *kill, check=False)

    async def __aenter__(self) -> Self:
        for number, name in enumerate(self._names):
            inner, outer = self._inner(number), self._outer(number)
            await _run("ip", "netns", "add", name)
            pair = ("type", "veth", "peer", "name", "eth0", "netns", name)
            await _run("ip", "link", "add", name, *pair)
            await _run("ip", "addr", "add", f"{outer}/30", "dev", name)
            await _run("ip", "link", "set", name, "up")
            inside = ("ip", "-n", name)
            await _run(*inside, "addr", "add", f"{inner}/30", "dev", "eth0")
            await _run(*inside, "link", "set", "eth0", "up")
            await _run(*inside, "link", "set", "lo", "up")
            await _run(*inside, "route", "add", "default", "via", outer)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in self._names:
            await _run("ip", "link", "del", name, check=False)
            await _run("ip", "netns", "del", name, check=False)

    async def _mislead(self, options: tuple[str, ...], address: str, device: str) -> None:
        where = ("lladdr", _NOWHERE, "dev", device, "nud", "permanent")
        await _run("ip", *options, "neigh", "replace", address, *where)

    def _outer(self, number: int) -> str:
        return f"{self._net}.{number}.1"

    def _inner(self, number: int) -> str:
        return f"{self._net}.{number}.2"


class Proxies(Network):
    """A proxy on loopback before each replica."""

    name = "proxies"

    def __init__(self, count: int) -> None:
        self._ports = [free_port() for _ in range(count)]
        self._proxies = [FaultProxy(port) for port in self._ports]

    def place(self, number: int) -> Place:
        """Return the place of one of the replicas that can be cut off."""
        listen = f"127.0.0.1:{self._ports[number]}"
        return Place(listen, f"127.0.0.1:{self._proxies[number].port}")

    async def cut(self, number: int, way: Way) -> None:
        """Let packets vanish without a sign."""
        self._proxies[number].freeze()
        if Way.IN not in way:
            self._proxies[number].judge_sent = lambda _: Fate.PASS
        if Way.OUT not in way:
            self._proxies[number].judge = lambda _: Fate.PASS

    async def heal(self, number: int) -> None:
        """Let all packets pass again."""
        self._proxies[number].release()

    async def reset(self, number: int) -> None:
        """End the connections of a replica with RST."""
        for end in list(self._proxies[number].ends):
            end.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE
            )
            end.transport.abort()

    async def __aenter__(self) -> Self:
        for proxy in self._proxies:
            await proxy.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for proxy in self._proxies:
            await proxy.__aexit__()


async def _run(*command: str, check: bool = True) -> int:
    """Run a command; return its exit status."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode is not None
    if check and process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {said.decode().strip()}")
    return process.returncode
