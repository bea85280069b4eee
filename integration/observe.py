"""The whole example under a real Prometheus, watched: ``python -m integration.observe``.

Redis, three instances of ``calc``, one of ``orders``, the gateway and a client under load are
started as processes, and a Prometheus that scrapes them. All targets must be up, every query of the
dashboard must return data, an alert must fire when an instance is killed and end when it is back,
and no call of the client may fail meanwhile. Then everything ends; with ``--keep`` only at Ctrl-C.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from integration.dashboard import expressions
from integration.stage import (
    CALC,
    HTTP,
    HTTP_PORT,
    LOAD,
    METRICS_PORT,
    ORDERS,
    RAP_PORT,
    Instance,
    Machine,
)
from tests.observe.prometheus import Prometheus, prometheus
from tests.redis_server import HOW_TO_GET_ONE, find_redis_server

__all__ = ["main"]

START, SEE, ALERT = 60.0, 60.0, 120.0  # seconds to wait: for programs, for data, for an alert
INTERVAL, RATE = "1s", "10s"  # between scrapes, and what rates are taken over
SECRET = "a key of 16 byte"
METRICS = ("--metrics-port", "0")


class Interrupted(Exception):
    """A signal has asked for the end."""


class Failed(Exception):
    """What had to be seen was not."""


class Watch:
    """Waits for things, until a signal comes.

    The handler of a signal only leaves a note, so that no process is lost that is being started.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.asked.set())

    def until(self, claim: Callable[[], object], what: str, seconds: float) -> float:
        """Return after how many seconds something became true."""
        started = time.monotonic()
        while not claim():
            if self.asked.wait(0.05):
                raise Interrupted
            if time.monotonic() > started + seconds:
                raise Failed(f"not within {seconds:.0f} s: {what}")
        if self.asked.is_set():
            raise Interrupted
        return time.monotonic() - started


class System:
    """The programs of the example, as processes.

    Args:
        directory: For their logs.
        watch: Waits for them.
    """

    def __init__(self, directory: Path, watch: Watch) -> None:
        self._machine = Machine(directory)
        self._directory = directory
        self._watch = watch
        self.calc: list[Instance] = []

    def start(self) -> None:
        """Start all, and wait until they work."""
        listen = self._machine.listen
        self.calc = [
            self._run_calc(name, listen, METRICS) for name in ("calc-a", "calc-b", "calc-c")
        ]
        self.orders = self._run("orders", (*ORDERS, *METRICS), APP_LISTEN=listen)
        self.gateway = self._run("gateway", (*HTTP, *self._machine.http_options))
        self.load = self._run("load", (*LOAD, "--orders", "--interval", "1"))
        for instance in (*self.calc, self.orders):
            self._wait_for(instance, "rap: listening on")
        self._wait_for(self.gateway, "running on http://")
        self._wait_for(self.load, "calls/s")

    def restart(self, instance: Instance) -> None:
        """Start an instance of ``calc`` again that was killed, at its addresses."""
        page = self.address(instance, METRICS_PORT).rpartition(":")[2]
        options = ("--metrics-port", page)
        again = self._run_calc(instance.name, self.address(instance, RAP_PORT), options)
        self._wait_for(again, "rap: listening on")
        self.calc[self.calc.index(instance)] = again

    def targets(self) -> Mapping[str, Sequence[str]]:
        """Return the pages of metrics by job."""
        jobs = {"calc": self.calc, "orders": [self.orders]}
        jobs |= {"gateway": [self.gateway], "load": [self.load]}
        return {job: [self.address(it, METRICS_PORT) for it in run] for job, run in jobs.items()}

    def address(self, instance: Instance, port: int) -> str:
        """Return where a program listens."""
        return self._machine.address_of(instance, port)

    @property
    def redis(self) -> str:
        """URL of Redis."""
        return self._machine.redis_url

    def ask(self, path: str, body: object) -> object:
        """Return what the gateway answers."""
        url = f"http://{self.address(self.gateway, HTTP_PORT)}{path}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), head)
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)["data"]

    def said_by_load(self) -> str:
        """Return the last line of the client under load."""
        return self.load.output().rstrip().rpartition("\n")[2]

    def close(self) -> None:
        """End everything at once."""
        self._machine.close()

    def _run_calc(self, name: str, listen: str, page: tuple[str, ...]) -> Instance:
        return self._run(name, (*CALC, *page), APP_LISTEN=listen, APP_NAME=name)

    def _run(self, name: str, arguments: tuple[str, ...], **environ: str) -> Instance:
        environ |= {"APP_SECRET": SECRET, "APP_STATE": self.redis, "APP_METRICS": "127.0.0.1:0"}
        return self._machine.run(name, arguments, self._directory, **environ)

    def _wait_for(self, instance: Instance, text: str) -> None:
        def said() -> bool:
            if instance.status() is not None:
                raise Failed(f"{instance.name} has ended: {instance.output()[-2000:]}")
            return text in instance.output()

        self._watch.until(said, f"{text!r} of {instance.name}", START)


def observe(system: System, metrics: Prometheus, watch: Watch) -> None:
    """Look at everything that has to be seen, and say so line by line.

    Raises:
        Failed: Something was not seen.
    """
    pages = [page for of_job in system.targets().values() for page in of_job]

    def up() -> bool:
        seen = metrics.query("up == 1") or ()
        return {it["metric"]["instance"] for it in seen} == set(pages)

    say("targets", f"{len(pages)} of {len(pages)} up, {watch.until(up, 'all up', SEE):.1f} s")
    answer = system.ask("/orders/call/default/total", {"prices": [1, 2, 3]})
    if (answer, system.ask("/api/call/default/add", {"a": 1, "b": 2})) != (6, 3):
        raise Failed(f"the gateway answers {answer!r}")
    say("gateway", "calls calc, and orders that calls calc")

    left = list(expressions(rate_interval=RATE))
    number = len(left)

    def answered() -> bool:
        left[:] = [expression for expression in left if not metrics.query(expression)]
        return not left

    try:
        took = watch.until(answered, "data for all queries", SEE)
    except Failed as failure:
        raise Failed("\n  ".join([str(failure), *left])) from None
    say("dashboard", f"{number} of {number} queries return data, {took:.1f} s")

    doomed = system.calc[0]
    page = system.address(doomed, METRICS_PORT)
    doomed.kill()
    took = watch.until(lambda: fires(metrics, page), f"an alert about {page}", ALERT)
    names = ", ".join(fires(metrics, page))
    say("alert", f"{names} fires {took:.1f} s after {doomed.name} at {page} was killed")
    system.restart(doomed)
    took = watch.until(lambda: not fires(metrics, page), f"no alert about {page}", ALERT)
    say("alert", f"it ends {took:.1f} s after {doomed.name} is back")

    last = system.said_by_load()
    if not last.endswith("failed: 0"):
        raise Failed(f"calls of the client under load have failed: {last}")
    say("load", last)


def fires(metrics: Prometheus, page: str) -> list[str]:
    """Return the names of alerts about a page that fire."""
    query = f'ALERTS{{alertstate="firing", instance="{page}"}}'
    return sorted(it["metric"]["alertname"] for it in metrics.query(query) or ())


def say(what: str, text: str) -> None:
    """Print one line."""
    print(f"{what:<11}{text}", flush=True)


@contextmanager
def running(watch: Watch) -> Iterator[tuple[System, Prometheus]]:
    """Run the example and Prometheus around the body, and leave nothing of them."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rap-observe-")))
        system = stack.enter_context(closing(System(directory, watch)))
        system.start()
        folder = directory / "prometheus"
        folder.mkdir()
        yield (
            system,
            stack.enter_context(prometheus(system.targets(), folder, interval=INTERVAL)),
        )


def run(*, keep: bool) -> int:
    """Return the exit status: 0 if all was seen, 1 if not, 130 if a signal came before the end."""
    watch = Watch()
    try:
        with running(watch) as (system, metrics):
            say("prometheus", f"http://{metrics.address}")
            observe(system, metrics, watch)
            if keep:
                say("http", f"http://{system.address(system.gateway, HTTP_PORT)}/api")
                say("redis", system.redis)
                for job, pages in system.targets().items():
                    for page in pages:
                        say(job, f"http://{page}/metrics")
                say("running", f"until Ctrl-C, or kill {os.getpid()}")
                watch.asked.wait()
    except Interrupted:
        print("interrupted", file=sys.stderr)
        return 130
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description="the whole example under a real Prometheus")
    parser.add_argument("--keep", action="store_true", help="leave it running, until Ctrl-C")
    keep = parser.parse_args().keep
    if shutil.which("prometheus") is None:
        sys.exit("no prometheus found: it has to be in PATH, as apt-get install prometheus does it")
    if find_redis_server() is None:
        sys.exit(HOW_TO_GET_ONE)
    sys.exit(run(keep=keep))


if __name__ == "__main__":
    main()
