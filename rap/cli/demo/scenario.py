"""The scenario of the demo: what is done to the cluster, and when its client notices.

The shares of the replicas are measured in quiet periods between the events.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from rap.cli.demo.backend import Backend
from rap.cli.demo.fleet import Fleet, Replica
from rap.cli.demo.traffic import PinnedCalls, QuietPeriod, RecordingPicker, Traffic
from rap.client import Client
from rap.registry import registry_from_url

__all__ = ["SERVICE", "Notice", "Scenario", "ScenarioReport"]

SERVICE = "demo"
_POLL = 0.002  # seconds between two checks of a condition
_PATIENCE = 20.0  # seconds to wait for a condition


@dataclass(frozen=True, slots=True)
class Notice:
    """How long it took until an event was noticed.

    Attributes:
        event: The event.
        effect: How it was noticed.
        seconds: Time between the two.
    """

    event: str
    effect: str
    seconds: float


@dataclass(slots=True)
class ScenarioReport:
    """The results of a scenario.

    Attributes:
        notices: How fast the events were noticed, in order.
        quiet_periods: The shares after the events, in order.
        pinned: The calls of the session and its channel.
    """

    notices: list[Notice] = field(default_factory=list)
    quiet_periods: list[QuietPeriod] = field(default_factory=list)
    pinned: PinnedCalls = field(default_factory=PinnedCalls)


class Scenario:
    """One run of the scenario.

    Args:
        fleet: The replicas.
        backend: The registry.
        client: The client.
        traffic: The calls of the client.
        picker: The picker of the client.
        say: Called with a line about each event.
        seconds: How long it may take; a slow machine takes longer.
        started: When the demo started, in seconds on the monotonic clock.

    Attributes:
        report: The results.
    """

    def __init__(
        self,
        fleet: Fleet,
        backend: Backend,
        client: Client,
        traffic: Traffic,
        picker: RecordingPicker,
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
        self._picker = picker
        self.say = say
        self._unit = seconds / 20.0
        self._end = started + seconds

    async def run(self) -> None:
        """Run the scenario while the traffic is flowing.

        Raises:
            RuntimeError: A replica did not start, or an event was not noticed in time.
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
        async with self._traffic.quiet_period(after, self._fleet.expected()) as stretch:
            await asyncio.sleep(units * self._unit)
        self.report.quiet_periods.append(stretch)
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
        await self._until(lambda: replica.address in self._picker.first, f"a first call for {name}")
        taken = self._picker.first[replica.address] - replica.registered
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
        """Record when the client gave the last call to a replica that it no longer uses."""
        await asyncio.sleep(0.2 * self._unit)
        last = self._picker.last.get(replica.address, at)
        self._notice(f"{event} of {replica.name}", "the last call given to it", max(0.0, last - at))

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while not condition():  # noqa: ASYNC110  # the state of other objects, which send no event
                    await asyncio.sleep(_POLL)
                return
        raise RuntimeError(f"waited {_PATIENCE:g} s for {what}")

    def _notice(
        self, event: str, effect: str, seconds: float | None = None, *, at: float = 0.0
    ) -> None:
        taken = time.monotonic() - at if seconds is None else seconds
        notice = Notice(event, effect, taken)
        self.report.notices.append(notice)
        self.say(f"{effect}: {taken * 1000:.1f} ms")
