"""Worker processes that serve one program: started, restarted, and drained.

The parent process serves nothing and does not import the program. `rap.server.prefork` describes
how workers share the load.
"""

import asyncio
import contextlib
import json
import logging
import random
import signal
import socket
import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import click

from rap.address import Address
from rap.cli.logs import configure_logging, handlers_of_rap
from rap.cli.metrics_page import MetricsPort, print_page, workers_page
from rap.cli.systemd import notify_ready
from rap.clock import Clock, SystemClock
from rap.server.signals import hang_up_handler

__all__ = ["Restarts", "Workers", "WorkersError"]

_log = logging.getLogger("rap.server")

_FIRST_PAUSE = 0.1  # seconds before the first restart
_LONGEST_PAUSE = 10.0  # seconds
_STABLE = 30.0  # seconds of running after which earlier deaths of a worker are forgotten
_END = 5.0  # seconds that a worker may take to end after it was told to end at once
_READY = 60.0  # seconds that a worker may take until it listens
_LOOPBACK = "127.0.0.1"  # address of the metrics pages of single workers


class WorkersError(Exception):
    """The workers cannot serve."""


class Restarts:
    """The pause before a worker is restarted.

    It doubles with each death, up to ten seconds, so that a program that cannot run does not keep
    the machine busy. It varies by 20 %, so that workers that died together restart one by one.

    Args:
        clock: Source of time.
        rng: Source of randomness.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._deaths = 0
        self._started = clock.monotonic()

    def started(self) -> None:
        """Note that a worker starts."""
        self._started = self._clock.monotonic()

    def died(self) -> float:
        """Note that a worker died; return the seconds to wait before a restart."""
        if self._clock.monotonic() - self._started >= _STABLE:
            self._deaths = 0
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._deaths, 16), _LONGEST_PAUSE)
        self._deaths += 1
        return pause * self._rng.uniform(0.8, 1.2)


@dataclass
class _Worker:
    """One worker and its current process.

    The link tells a worker that listens what to do; see `rap.cli.worker`. It ends with the parent
    process. The metrics page, if there is one, is on loopback.
    """

    number: int
    restarts: Restarts
    process: asyncio.subprocess.Process | None = None
    link: asyncio.StreamWriter | None = None
    metrics_address: Address | None = None
    starts: int = 0
    listens: bool = False

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.runs:
            self.process.send_signal(number)

    def drain(self) -> None:
        """Let the worker drain, or the second time, end at once."""
        if self.listens and self.link is not None:
            self.link.write(b"drain\n")
        else:
            self.send(signal.SIGTERM)

    async def ended(self) -> int | None:
        """Wait until the process has ended; return its exit status."""
        status = None if self.process is None else await self.process.wait()
        self.metrics_address = None
        self.listens = False
        if self.link is not None:
            self.link.close()
            self.link = None
        return status


class Workers:
    """The workers of one program.

    Args:
        target: The server that they run, such as ``module:server``.
        count: Number of workers.
        loop: Their event loop, one of `rap.cli.runtime.LOOPS`.
        log_level: The lowest level that they log.
        access_log: Whether they log each call; `None` leaves it to the server.
        log_config: File that sets up logging, here and in the workers.
        metrics: Where to serve one metrics page for all of them; `None` for no page.
        clock: Source of time.
        rng: Source of randomness.
    """

    def __init__(
        self,
        target: str,
        count: int,
        *,
        loop: str,
        log_level: str,
        access_log: bool | None = None,
        log_config: str | None = None,
        metrics: MetricsPort | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._order = {
            "target": target,
            "loop": loop,
            "log_level": log_level,
            "access_log": access_log,
            "log_config": log_config,
        }
        self._metrics = metrics
        self._page: Any = None
        self._log_level = log_level
        self._logs = log_config is not None
        self._own_log = False  # the program sets up logging in the workers, which log themselves
        clock, rng = clock or SystemClock(), rng or random.Random()
        self._workers = [_Worker(number, Restarts(clock, rng)) for number in range(count)]
        self._shared: list[str] | None = None  # addresses that all listen on
        self._complete = False  # all have been started
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Keep the workers running until SIGTERM or SIGINT, then drain them.

        All of them drain at the same time, so that N workers stop as soon as one would. A second
        signal ends them at once. SIGHUP is passed on to every worker; if the terminal was
        closed, the workers drain.

        Raises:
            WorkersError: A worker could not be started at first.
        """
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGHUP: hang_up_handler(self._on_hangup, self._stop.set),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            async with workers_page(self._workers, self._is_willing, self._metrics) as page:
                self._page = page
                await self._run()
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def _run(self) -> None:
        keepers: list[asyncio.Task[None]] = []
        try:
            for worker in self._workers:  # one by one: the first one chooses the ports
                if self._stop.is_set():
                    break
                if not await self._start(worker) and not self._stop.is_set():
                    raise WorkersError(f"worker {worker.number} did not start")
                name = f"rap worker {worker.number}"
                keepers.append(asyncio.create_task(self._keep(worker), name=name))
            self._complete = True
            if not self._stop.is_set():
                notify_ready()
            await self._stop.wait()
        finally:
            self._stop.set()
            await self._drain()
            await asyncio.gather(*keepers)

    def _on_stop(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _on_hangup(self) -> None:
        for worker in self._workers:
            worker.send(signal.SIGHUP)

    def _is_willing(self) -> bool:
        return self._complete and not self._stop.is_set()

    async def _start(self, worker: _Worker) -> bool:
        """Start a worker; return whether it listens. If not, it has ended or is about to end."""
        worker.restarts.started()
        worker.starts += 1
        reader, page = await self._spawn(worker)
        if self._stop.is_set():  # while the process started
            worker.send(signal.SIGTERM)
        assert worker.process is not None
        try:
            async with asyncio.timeout(_READY):
                line = await reader.readline()
        except TimeoutError:
            worker.send(signal.SIGKILL)
            return False
        if not line:
            await _within(_END, worker.process.wait())  # it may still print the reason
            return False
        ready = json.loads(line)
        worker.metrics_address = page
        worker.listens = True
        if ready["shared"]:
            self._shared = ready["addresses"]
        if ready["own_log"] and not self._own_log:
            self._own_log = True
            configure_logging(self._log_level, handlers_of_rap())
        where = ", ".join(ready["addresses"])
        page, self._page = self._page, None
        print_page(page, self.say)
        self.say(f"worker {worker.number} (pid {worker.process.pid}) listening on {where}")
        return True

    def say(self, text: str, level: int = logging.INFO) -> None:
        """Print a line about an event, or log it if logging was set up.

        If the program sets up logging in the workers, these log that they listen and stop, and only
        what they cannot know is logged here.
        """
        if not (self._logs or self._own_log):
            click.echo(f"rap: {text}")
        elif self._logs or level > logging.INFO:
            _log.log(level, "%s", text)

    async def _spawn(self, worker: _Worker) -> tuple[asyncio.StreamReader, Address | None]:
        """Start the process of a worker; return the link, and the address of its metrics page."""
        ours, theirs = socket.socketpair()
        handed = [theirs]
        page = None
        if self._metrics is not None:
            listener = socket.create_server((_LOOPBACK, 0))
            handed.append(listener)
            page = Address("tcp", _LOOPBACK, listener.getsockname()[1])
        order = self._order | {
            "number": worker.number,
            "count": len(self._workers),
            "shared": self._shared,
            "link": theirs.fileno(),
            "metrics": None if page is None else listener.fileno(),
        }
        reader, worker.link = await asyncio.open_connection(sock=ours)
        with contextlib.ExitStack() as inherited:
            for each in handed:
                inherited.enter_context(each)
            worker.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "rap.cli.worker", json.dumps(order)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[each.fileno() for each in handed],
                start_new_session=True,  # Ctrl-C in a terminal signals the parent only
            )
        return reader, page

    async def _keep(self, worker: _Worker) -> None:
        """Restart a worker whenever it ends."""
        while True:
            status = await worker.ended()
            if self._stop.is_set():
                return
            pause = worker.restarts.died()
            text = f"worker {worker.number} ended with status {status}"
            self.say(f"{text}, starts again in {pause:.1f} s", logging.WARNING)
            if await _within(pause, self._stop.wait()):
                return
            try:
                await self._start(worker)
            except OSError as exc:  # the system has no processes or descriptors left
                text = f"worker {worker.number} cannot be started: {exc}"
                self.say(text, logging.ERROR)

    async def _drain(self) -> None:
        """Drain all workers, and end them at once after a second signal."""
        for worker in self._workers:
            worker.drain()
        ends = asyncio.gather(*[worker.ended() for worker in self._workers])
        await _first(asyncio.shield(ends), self._hurry.wait())
        if not ends.done():
            for worker in self._workers:
                worker.drain()  # the second time
            if not await _within(_END, asyncio.shield(ends)):
                for worker in self._workers:
                    worker.send(signal.SIGKILL)
        await ends


async def _first(*waits: Awaitable[object]) -> None:
    """Wait until one of these is done, and cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _within(seconds: float, wait: Awaitable[object]) -> bool:
    """Return whether `wait` was done in time."""
    try:
        async with asyncio.timeout(seconds):
            await wait
    except TimeoutError:
        return False
    return True
