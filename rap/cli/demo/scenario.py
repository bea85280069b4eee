"""The story of the demo: what is done to the cluster, and when its client noticed.

Between two events lies a quiet stretch, in which the shares are measured.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from rap.cli.demo.backend import Backend
from rap.cli.demo.fleet import Fleet, Replica
from rap.cli.demo.traffic import Observed, Pinned, Stretch, Traffic
from rap.client import Client
from rap.registry import registry_from_url

__all__ = ["SERVICE", "Notice", "Scenario", "ScenarioReport"]

SERVICE = "demo"
_LOOK = 0.002  # seconds between two looks for what is waited for
_PATIENCE = 20.0  # seconds after which something that should happen will not


@dataclass(frozen=True, slots=True)
class Notice:
    """How long something took to be noticed.

    Attributes:
        event: What happened.
        effect: What was waited for.
        seconds: From one to the other.
    """

    event: str
    effect: str
    seconds: float


@dataclass(slots=True)
class ScenarioReport:
    """What the story came to.

    Attributes:
        notices: In order.
        stretches: In order.
        pinned: What the session and its channel saw.
    """

    notices: list[Notice] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    pinned: Pinned = field(default_factory=Pinned)


class Scenario:
    """Tells the story once.

    Args:
        fleet: The replicas.
        backend: The registry.
        client: The client.
        traffic: Its calls.
        observed: Its picker.
        say: Called with each event as it happens.
        seconds: How long the story may take; a slow machine takes longer.
        started: When it began, in seconds on the monotonic clock.

    Attributes:
        report: What it came to.
    """

    def __init__(
        self,
        fleet: Fleet,
        backend: Backend,
        client: Client,
        traffic: Traffic,
        observed: Observed,
        *,
        say: Callable[[str], None],
        seconds: float,
        started: float,
    ) -> None:
        self.report = ScenarioReport()
        self._fleet = fleet
        self._backend = backend
        self._client = client
        self._traffic = traffic
        self._observed = observed
        self.say = say
        self._unit = seconds / 20.0
        self._end = started + seconds

    async def run(self) -> None:
        """Tell the story; the calls flow meanwhile.

        Raises:
            RuntimeError: A replica did not start, or something was never noticed.
        """
        replicas = self._fleet.replicas
        await self._quiet("the start", 2.5)
        await self._kill(replicas["a"])
        await self._quiet("SIGKILL of a", 2.0)
        await self._join("d", 1)
        await self._quiet("the start of d", 2.0)
        await self._drain(replicas["b"])
        await self._quiet("the drain of b", 2.0)
        async with self._session():
            if self._backend.restarts:
                await self._restart_registry()
            else:
                self.say("the registry is not ours and is not restarted")
            await asyncio.sleep(self._unit)
        left = self._end - time.monotonic()
        last = "the restart of the registry" if self._backend.restarts else "the session"
        await self._quiet(last, max(1.5, left / self._unit - 0.5))

    async def _quiet(self, after: str, units: float) -> None:
        await asyncio.sleep(0.5 * self._unit)
        async with self._traffic.stretch(after, self._fleet.expected()) as stretch:
            await asyncio.sleep(units * self._unit)
        self.report.stretches.append(stretch)
        self.say(
            f"quiet for {stretch.seconds:.1f} s after {after}: shares within "
            f"{stretch.deviation:.1f} points of the weights"
        )

    async def _kill(self, replica: Replica) -> None:
        at = replica.kill()
        self.say(f"SIGKILL of {replica.name}")
        await self._until(lambda: self._is_out(replica), f"{replica.name} to be left out")
        await self._settled(replica, "SIGKILL", at)

    async def _join(self, name: str, weight: int) -> None:
        replica = await self._fleet.start(name, weight)
        self.say(f"{name} has registered, weight {weight}")
        await self._until(
            lambda: replica.address in self._observed.first, f"a first call for {name}"
        )
        taken = self._observed.first[replica.address] - replica.registered
        self._notice(f"start of {name}", "its first call after it registered", max(0.0, taken))
        await asyncio.sleep(self._client.config.slow_start)

    async def _drain(self, replica: Replica) -> None:
        at = replica.drain()
        self.say(f"SIGTERM for {replica.name}")
        await self._until(lambda: self._is_out(replica), f"{replica.name} to be left out")
        await self._settled(replica, "SIGTERM", at)
        status = await replica.ended()
        self.say(f"{replica.name} finished its calls and ended with status {status}")

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[None]:
        async with self._traffic.pinned() as pinned:
            self.report.pinned = pinned
            self.say("a session opens, and a channel in it")
            yield
        self.say(
            f"the session made {pinned.calls.total()} calls and its channel carried "
            f"{pinned.messages.total()} messages, all on {' and '.join(pinned.replicas)}"
        )

    async def _restart_registry(self) -> None:
        self.say("the registry goes down, and comes back empty")
        failed = self._traffic.failed
        await self._backend.restart()
        at = time.monotonic()
        await self._registered_again()
        self._notice("restart of the registry", "all replicas registered again", at=at)
        self.say(f"{self._traffic.failed - failed} calls failed meanwhile")

    async def _registered_again(self) -> None:
        registry = registry_from_url(self._backend.url)
        missing = {replica.address for replica in self._fleet.live}
        try:
            async with (
                asyncio.timeout(_PATIENCE),
                aclosing(registry.watch(SERVICE)) as snapshots,  # type: ignore[type-var]  # a generator
            ):
                async for snapshot in snapshots:
                    if missing <= snapshot.keys():
                        return
        except TimeoutError:
            raise RuntimeError("the replicas did not register again") from None
        finally:
            await registry.aclose()

    def _is_out(self, replica: Replica) -> bool:
        return all(node.key != replica.address for node in self._client.cluster.ready)

    async def _settled(self, replica: Replica, event: str, at: float) -> None:
        """Note when the last call went to a replica that the client has left out."""
        await asyncio.sleep(0.2 * self._unit)
        last = self._observed.last.get(replica.address, at)
        self._notice(f"{event} of {replica.name}", "the last call given to it", max(0.0, last - at))

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while not condition():  # noqa: ASYNC110  # another's state; it tells nobody
                    await asyncio.sleep(_LOOK)
                return
        raise RuntimeError(f"waited {_PATIENCE:g} s for {what}")

    def _notice(
        self, event: str, effect: str, seconds: float | None = None, *, at: float = 0.0
    ) -> None:
        taken = time.monotonic() - at if seconds is None else seconds
        notice = Notice(event, effect, taken)
        self.report.notices.append(notice)
        self.say(f"{effect}: {taken * 1000:.1f} ms")
