"""The replicas of the demo: processes that are started, drained and killed."""

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import Process
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

__all__ = ["Fleet", "Replica"]

_START_TIMEOUT = 20.0  # seconds
_STOP_TIMEOUT = 40.0  # seconds: a drain may take 26


@dataclass(slots=True, eq=False)
class Replica:
    """The process of one replica.

    Attributes:
        name: Its name, with which it answers calls.
        weight: Its capacity, relative to the others.
        address: The address that it listens on, and its ID in the registry.
        registered: When the registry acknowledged it, in seconds on the monotonic clock.
        fate: What was done to it; empty while it serves.
    """

    name: str
    weight: int
    process: Process
    address: str = ""
    registered: float = 0.0
    fate: str = ""

    def kill(self) -> float:
        """Send SIGKILL; return the time in seconds on the monotonic clock."""
        self.fate = "killed"
        self.process.kill()
        return time.monotonic()

    def drain(self) -> float:
        """Send SIGTERM; return the time in seconds on the monotonic clock."""
        self.fate = "drained"
        self.process.send_signal(signal.SIGTERM)
        return time.monotonic()

    async def ended(self) -> int:
        """Wait until the process has ended; return its exit status.

        Raises:
            TimeoutError: It did not end within 40 s.
        """
        async with asyncio.timeout(_STOP_TIMEOUT):
            return await self.process.wait()


class Fleet:
    """All replicas, for ``async with``, which kills them at its end.

    Args:
        service: Name of their service.
        registry: URL of the registry.
        lease_ttl: Seconds that a registration lasts without a heartbeat.
        loop: Name of their event loop.
    """

    def __init__(self, service: str, registry: str, lease_ttl: float, loop: str) -> None:
        self.replicas: dict[str, Replica] = {}
        self._options = (
            f"--service={service}",
            f"--registry={registry}",
            f"--lease-ttl={lease_ttl}",
            f"--loop={loop}",
        )

    @property
    def live(self) -> list[Replica]:
        """The replicas that serve."""
        return [replica for replica in self.replicas.values() if not replica.fate]

    def expected(self) -> dict[str, float]:
        """Return a mapping of the name of each live replica to its share by weight, from 0 to 1."""
        total = sum(replica.weight for replica in self.live)
        return {replica.name: replica.weight / total for replica in self.live}

    async def start(self, name: str, weight: int) -> Replica:
        """Start a replica; return when it is registered.

        Raises:
            RuntimeError: It ended, was not ready within 20 s, or could not register.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rap.cli", "demo-replica"),
            *(f"--name={name}", f"--weight={weight}", *self._options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal signals the demo only
        )
        replica = self.replicas[name] = Replica(name, weight, process, fate="starting")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise RuntimeError(f"replica {name} did not start")
        ready = json.loads(line)
        replica.address, replica.registered = ready["address"], ready["registered"]
        if not replica.registered:
            raise RuntimeError(f"replica {name} could not register: the registry does not answer")
        replica.fate = ""
        return replica

    async def close(self) -> None:
        """Kill all processes, and wait until they have ended."""
        for replica in self.replicas.values():
            if replica.process.returncode is None:
                with suppress(ProcessLookupError):
                    replica.process.kill()
        await asyncio.gather(*(replica.process.wait() for replica in self.replicas.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self.close())
