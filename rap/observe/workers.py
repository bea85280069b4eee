"""Metrics and health of a program of several processes, on one port.

Each worker has a metrics server on loopback, on its event loop. The process that supervises the
workers asks all of them when it is asked.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rap.address import Address
from rap.observe.http import HttpResponse, HttpServer, fetch
from rap.observe.page import Form, Pages

__all__ = ["Worker", "WorkerAnswer", "WorkersCollector", "WorkersMetricsServer", "merge"]

_METRICS_TIMEOUT = 3.0  # seconds for the metrics of a worker; a scrape ends after 5 or 10
_PROBE_TIMEOUT = 0.8  # seconds for the health of a worker; a Kubernetes probe ends after 1
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_END = "# EOF"


class Worker(Protocol):
    """A worker process, as the metrics server of its supervisor sees it."""

    @property
    def number(self) -> int:
        """The number of the worker, from 0."""
        ...

    @property
    def metrics_address(self) -> Address | None:
        """Where its metrics server listens; `None` while the worker does not serve."""
        ...

    @property
    def starts(self) -> int:
        """How often it was started."""
        ...


class WorkerAnswer(NamedTuple):
    """The result of asking one worker.

    Args:
        worker: Number of the worker.
        good: Whether it answered with 200.
        text: The text of its response, or why there is none.
        stuck: Whether the worker runs but does not answer.
    """

    worker: int
    good: bool
    text: str
    stuck: bool = False


class WorkersMetricsServer:
    """Serves the metrics and health of all workers between `start` and `close`; use ``async with``.

    ``/metrics`` has the metrics of all workers, each sample with the label ``worker``. A worker
    that does not answer is left out. ``/healthz`` is 503 while a running worker does not answer; a
    worker that has exited is for the supervisor to restart. ``/readyz`` is 200 while at least one
    worker is ready, from when all have started until they are told to stop. New connections go to
    workers that listen, so one that is being restarted does not make the program unready.

    Args:
        workers: All workers.
        willing: Returns whether all workers have started and none is to stop.
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.
    """

    def __init__(
        self, workers: Sequence[Worker], willing: Callable[[], bool], *, host: str, port: int
    ) -> None:
        self._workers = workers
        self._willing = willing
        self._where = (host, port)
        self._http = HttpServer(
            {
                "/metrics": Pages(self._metrics).respond,
                "/healthz": self._health,
                "/readyz": self._ready,
            }
        )

    @property
    def address(self) -> Address:
        """The address that it listens on, with the real port."""
        return self._http.address

    async def __aenter__(self) -> Self:
        await self._http.start(self._where)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    async def _metrics(self, form: Form) -> bytes:
        answers = await self._ask("/metrics", form.content_type, _METRICS_TIMEOUT)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkersCollector(self._workers, answers))
        texts = {str(each.worker): each.text for each in answers if each.good}
        return merge("worker", texts, form.encode(registry).decode()).encode()

    async def _health(self, accept: str) -> HttpResponse:
        answers = await self._ask("/healthz", accept, _PROBE_TIMEOUT)
        return HttpResponse.lines(_lines(answers), good=not any(each.stuck for each in answers))

    async def _ready(self, accept: str) -> HttpResponse:
        if not self._willing():
            return HttpResponse.lines(["the workers are starting or stopping"], good=False)
        answers = await self._ask("/readyz", accept, _PROBE_TIMEOUT)
        return HttpResponse.lines(_lines(answers), good=any(each.good for each in answers))

    async def _ask(self, path: str, accept: str, timeout: float) -> list[WorkerAnswer]:
        """Ask all workers concurrently."""
        return await asyncio.gather(*(_ask(each, path, accept, timeout) for each in self._workers))


async def _ask(worker: Worker, path: str, accept: str, timeout: float) -> WorkerAnswer:
    if worker.metrics_address is None:
        return WorkerAnswer(worker.number, False, "does not serve yet")
    try:
        good, text = await fetch(worker.metrics_address, path, accept, timeout)
    except TimeoutError:
        text = f"did not answer in {timeout:g} s"
        return WorkerAnswer(worker.number, False, text, stuck=True)
    except OSError as exc:
        return WorkerAnswer(worker.number, False, f"cannot be asked: {exc}")
    return WorkerAnswer(worker.number, good, text)


def _lines(answers: Sequence[WorkerAnswer]) -> list[str]:
    return [f"worker {each.worker}: {line}" for each in answers for line in each.text.splitlines()]


class WorkersCollector(Collector):
    """Metrics about the workers themselves.

    Args:
        workers: All workers.
        answers: The result of asking each, in the same order.
    """

    def __init__(self, workers: Sequence[Worker], answers: Sequence[WorkerAnswer]) -> None:
        self._workers = workers
        self._answers = answers

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the metrics."""
        up = GaugeMetricFamily(
            "rap_worker_up", "1 if the worker reports its metrics.", labels=["worker"]
        )
        starts = CounterMetricFamily(
            "rap_worker_starts", "Number of times the worker was started.", labels=["worker"]
        )
        for worker, answer in zip(self._workers, self._answers, strict=True):
            up.add_metric([str(worker.number)], answer.good)
            starts.add_metric([str(worker.number)], worker.starts)
        yield from (up, starts)


def merge(label: str, texts: Mapping[str, str], own: str = "") -> str:
    """Return the metrics of several processes as one text, in the same exposition format.

    Args:
        label: Name of the label to add. If a sample has that label already, it becomes
            ``exported_…``.
        texts: Metrics in text form, by value of the label.
        own: Metrics to which no label is added.
    """
    families = {"": _Family()}  # the first has the samples that follow no comment
    labelled = [(own, ""), *((text, f'{label}="{value}"') for value, text in texts.items())]
    for text, pair in labelled:
        family = families[""]
        for line in text.splitlines():
            if line.startswith("#"):
                match line.split(" ", 3):
                    case ["#", "HELP" | "TYPE" | "UNIT" as word, name, *_]:
                        family = families.setdefault(name, _Family())
                        family.head.setdefault(word, line)
            elif line:
                family.samples.append(_with_label(line, label, pair) if pair else line)
    lines = [
        line for family in families.values() for line in (*family.head.values(), *family.samples)
    ]
    if any(text.rstrip().endswith(_END) for text, _ in labelled):
        lines.append(_END)
    return "".join(f"{line}\n" for line in lines)


class _Family:
    """The lines of one metric: its HELP, TYPE and UNIT, and its samples."""

    def __init__(self) -> None:
        self.head: dict[str, str] = {}
        self.samples: list[str] = []


def _with_label(line: str, label: str, pair: str) -> str:
    name = _NAME.match(line)
    if name is None:
        return line
    rest = line[name.end() :]
    if not rest.startswith("{"):
        return f"{name[0]}{{{pair}}}{rest}"
    if rest.startswith("{}"):
        return f"{name[0]}{{{pair}}}{rest[2:]}"
    rest = re.sub(rf'([{{,]){label}="', rf'\1exported_{label}="', rest, count=1)
    return f"{name[0]}{{{pair},{rest[1:]}"
