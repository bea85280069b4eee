"""The documentation lists exactly the metrics that a process exports."""

import asyncio
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import CollectorRegistry, Metric

from integration.dashboard import expressions
from rap.call import Request
from rap.client import Client
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.errors import ResourceExhausted
from rap.observe import serve_metrics
from rap.observe.workers import WorkerAnswer, WorkersCollector
from rap.processor.metrics.prometheus import PrometheusMessageProcessor, PrometheusProcessor
from rap.registry import MemoryRegistry
from rap.server.processor import CryptoProcessor, LimitProcessor, Rule
from tests.loopback import serving
from tests.observe.prometheus import RULES
from tests.observe.stub_worker import StubWorker
from tests.transport.certificates import Certificates

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
ROW = re.compile(r"^\| `(rap_\w+)` \| (\w+) \| ([\w, ]*?) *\| (.+) \|$", re.MULTILINE)
NAME = re.compile(r"\brap_[a-z_]+\b(?!:)")
KEY = "0123456789abcdef"


class Shown(NamedTuple):
    """A metric: its name in queries, its type, its labels."""

    name: str
    type: str
    labels: tuple[str, ...]


class Telling(MemoryRegistry):
    """A registry that says how it is, as the one in Redis does."""

    degraded = False
    age = 0.0


def documented() -> list[Shown]:
    return [
        Shown(name, kind, tuple(sorted(filter(None, labels.split(", ")))))
        for name, kind, labels, _ in ROW.findall(PAGE.read_text())
    ]


def shown(metric: Metric) -> Shown:
    labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    if metric.type == "info":
        labels = set(metric.samples[0].labels)
    return Shown(metric.name + suffix, metric.type, tuple(sorted(labels)))


async def add(a: int, b: int) -> int:
    return a + b


async def turn() -> None:
    await asyncio.sleep(0)


def everybody(request: Request) -> str:
    return "all"


async def test_the_documentation_lists_every_metric_with_its_type_and_labels(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path)
    ca, own, mine = certificates.authority, certificates.server, certificates.client
    metrics, found = CollectorRegistry(), Telling()
    counting = [PrometheusProcessor(metrics), PrometheusMessageProcessor(metrics)]
    limit = LimitProcessor("memory://", [(everybody, Rule(second=1))])
    crypto = CryptoProcessor({"k": KEY})
    options: dict[str, Any] = {
        "service": "shop",
        "registry": found,
        "drain_delay": 0,
        "verify_token": "let me in".__eq__,
        "ssl_crt_path": own.crt_path,
        "ssl_key_path": own.key_path,
        "ssl_ca_path": ca.crt_path,
        "ssl_crl_path": certificates.revoke(),
    }
    tls: dict[str, Any] = {
        "ssl_ca_path": ca.crt_path,
        "ssl_client_crt_path": mine.crt_path,
        "ssl_client_key_path": mine.key_path,
    }
    async with serving(add, processor_list=[*counting, limit, crypto], **options) as server:
        processors = [*counting, ClientCrypto("k", KEY)]
        client = Client(
            service="shop", registry=found, processor_list=processors, token="let me in", **tls
        )
        async with client, serve_metrics(server, client, registry=metrics):
            await client.call(add, 1, 2)
            await client.call(add, 1, 2)
            server.register(turn, max_concurrency=1)
            refused = await asyncio.gather(
                client.call(turn), client.call(turn), return_exceptions=True
            )
            assert isinstance(refused[1], ResourceExhausted)
            workers = WorkersCollector([StubWorker(0)], [WorkerAnswer(0, True, "")])
            seen = [*metrics.collect(), *workers.collect()]
    assert sorted(map(shown, seen)) == sorted(documented())


def test_a_metric_is_documented_once() -> None:
    names = [each.name for each in documented()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("source", ["rules", "dashboard"])
def test_rules_and_dashboard_ask_for_documented_metrics_only(source: str) -> None:
    text = RULES.read_text() if source == "rules" else "\n".join(expressions())
    queries = "\n".join(line for line in text.splitlines() if "record:" not in line)
    asked = {name.removesuffix("_bucket") for name in NAME.findall(queries)}
    asked -= {"rap_server_failed", "rap_client_failed"}  # recorded
    assert len(asked) > 10
    assert asked <= {each.name for each in documented()}
