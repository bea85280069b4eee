"""One page for a program of several processes: their metrics with a label, and their health.

Each worker has a page of its own on loopback, on the event loop that it tells of. The process that
keeps them asks them all when it is asked.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rap.address import Address
from rap.observe.http import Answer, Pages, fetch

__all__ = ["Told", "Worker", "WorkersCollector", "WorkersPage", "merge"]


_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_END = "# EOF"


class _Family:
    """The lines of one metric: what is said of it, by word, and its samples."""

    def __init__(self) -> None:
        self.head: dict[str, str] = {}
        self.samples: list[str] = []


def merge(label: str, pages: Mapping[str, str], own: str = "") -> str:
    """Return one page of many, in the format that they have.

    Args:
        label: Name of the label; where a sample has that already, it becomes ``exported_…``.
        pages: By value of the label.
        own: A page whose samples stay as they are.
    """
    families = {"": _Family()}  # the first one: samples of which nothing was said
    texts = [(own, ""), *((text, f'{label}="{value}"') for value, text in pages.items())]
    for text, pair in texts:
        family = families[""]
        for line in text.splitlines():
            if line.startswith("#"):
                match line.split(" ", 3):
                    case ["#", "HELP" | "TYPE" | "UNIT" as word, name, *_]:
                        family = families.setdefault(name, _Family())
                        family.head.setdefault(word, line)
            elif line:
                family.samples.append(_labelled(line, label, pair) if pair else line)
    lines = [
        line for family in families.values() for line in (*family.head.values(), *family.samples)
    ]
    if any(text.rstrip().endswith(_END) for text, _ in texts):
        lines.append(_END)
    return "".join(f"{line}\n" for line in lines)


def _labelled(line: str, label: str, pair: str) -> str:
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


_PATIENCE = 3.0  # seconds for a worker to tell its metrics; a scrape ends after 5 or 10
_PROBE = 0.8  # seconds for a worker to say how it is; a probe of Kubernetes ends after 1


class Worker(Protocol):
    """A worker as this page sees it."""

    @property
    def number(self) -> int:
        """Which one it is, from 0."""

    @property
    def page(self) -> Address | None:
        """Where its own page is; `None` while it does not serve."""

    @property
    def starts(self) -> int:
        """How often it was started."""


class Told(NamedTuple):
    """What came of asking one worker.

    Args:
        worker: Its number.
        good: The answer was 200.
        text: It, or why there is none.
        stuck: There is a worker, and it does not answer.
    """

    worker: int
    good: bool
    text: str
    stuck: bool = False


class WorkersPage:
    """Serves the page between `start` and `close`; use ``async with``.

    ``/metrics`` has what all workers tell, each sample with the label ``worker``; one that does
    not answer is left out. ``/healthz`` is 503 while one that serves does not answer; to start
    one that has ended again is the business of who keeps them. ``/readyz`` is 200 from when all
    have served to when they are to stop, while at least one of them says that it is ready:
    new connections go to workers that listen, so one that is being started again is not missed.

    Args:
        workers: All of them.
        willing: Whether all have served and none is to stop.
        host: Address to listen on.
        port: Port to listen on; 0 is any free one.
    """

    def __init__(
        self, workers: Sequence[Worker], willing: Callable[[], bool], *, host: str, port: int
    ) -> None:
        self._workers = workers
        self._willing = willing
        self._where = (host, port)
        self._pages = Pages(
            {"/metrics": self._metrics, "/healthz": self._alive, "/readyz": self._ready}
        )

    @property
    def address(self) -> Address:
        """What is listened on, with the real port; only while it is."""
        return self._pages.address

    async def __aenter__(self) -> Self:
        await self._pages.start(self._where)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._pages.close()

    async def _metrics(self, accept: str) -> Answer:
        told = await self._ask("/metrics", accept, _PATIENCE)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkersCollector(self._workers, told))
        encode, content_type = choose_encoder(accept)
        pages = {str(each.worker): each.text for each in told if each.good}
        text = merge("worker", pages, encode(registry).decode())
        return Answer("200 OK", content_type, text.encode())

    async def _alive(self, accept: str) -> Answer:
        told = await self._ask("/healthz", accept, _PROBE)
        return Answer.lines(_lines(told), good=not any(each.stuck for each in told))

    async def _ready(self, accept: str) -> Answer:
        if not self._willing():
            return Answer.lines(["the workers are starting or stopping"], good=False)
        told = await self._ask("/readyz", accept, _PROBE)
        return Answer.lines(_lines(told), good=any(each.good for each in told))

    async def _ask(self, path: str, accept: str, timeout: float) -> list[Told]:
        """Ask all workers at once."""
        return await asyncio.gather(*(_ask(each, path, accept, timeout) for each in self._workers))


async def _ask(worker: Worker, path: str, accept: str, timeout: float) -> Told:
    if worker.page is None:
        return Told(worker.number, False, "does not serve yet")
    try:
        good, text = await fetch(worker.page, path, accept, timeout)
    except TimeoutError:
        text = f"did not answer in {timeout:g} s"
        return Told(worker.number, False, text, stuck=True)
    except OSError as exc:
        return Told(worker.number, False, f"cannot be asked: {exc}")
    return Told(worker.number, good, text)


def _lines(told: Sequence[Told]) -> list[str]:
    return [f"worker {each.worker}: {line}" for each in told for line in each.text.splitlines()]


class WorkersCollector(Collector):
    """What is told of the workers themselves.

    Args:
        workers: All of them.
        told: What came of asking each.
    """

    def __init__(self, workers: Sequence[Worker], told: Sequence[Told]) -> None:
        self._workers = workers
        self._told = told

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield what is known now."""
        up = GaugeMetricFamily(
            "rap_worker_up", "1 if the worker tells its metrics.", labels=["worker"]
        )
        starts = CounterMetricFamily(
            "rap_worker_starts", "Times that the worker was started.", labels=["worker"]
        )
        for worker, told in zip(self._workers, self._told, strict=True):
            up.add_metric([str(worker.number)], told.good)
            starts.add_metric([str(worker.number)], worker.starts)
        yield from (up, starts)
