"""Prometheus scrapes the metrics, keeps exemplars and accepts the rules; skipped without it."""

import re
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from rap.observe import serve_metrics
from rap.server.processor import PrometheusProcessor
from tests.loopback import calling, serving
from tests.observe.http import get
from tests.observe.prometheus import (
    RULES,
    needs_prometheus,
    needs_promtool,
    prometheus,
    promtool,
    until,
)

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
RULES_TEST = RULES.with_name("rules_test.yml")
METHOD = '{method="/default/add"}'


async def add(a: int, b: int) -> int:
    return a + b


@needs_prometheus
async def test_prometheus_scrapes_the_metrics_server(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with (
        serving(add, processor_list=[PrometheusProcessor(registry)]) as server,
        serve_metrics(server, registry=registry) as page,
        calling(server) as client,
    ):
        header = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
        for _ in range(3):
            await client.call(add, 1, 2, header=header)
        with prometheus({"calc": [page.address]}, tmp_path) as running:

            def exemplars() -> Any:
                name = f"rap_server_handling_seconds_bucket{METHOD}"
                return running.ask("query_exemplars", query=name, start="0", end="9999999999")

            (series,) = await until(lambda: running.query(f"rap_server_handled_total{METHOD}"))
            assert series["value"][1] == "3"
            assert series["metric"]["code"] == "OK"
            found = await until(exemplars)
            assert found[0]["exemplars"][0]["labels"] == {"trace_id": TRACE_ID}
            recorded = f"method:rap_server_handled:rate1m{METHOD}"
            (rate,) = await until(lambda: running.query(recorded))
            assert rate["metric"]["job"] == "calc"


@needs_promtool
async def test_promtool_accepts_the_metrics() -> None:
    registry = CollectorRegistry()
    async with (
        serving(add, processor_list=[PrometheusProcessor(registry)]) as server,
        calling(server, processor_list=[PrometheusProcessor(registry)]) as client,
        serve_metrics(server, client, registry=registry) as page,
    ):
        await client.call(add, 1, 2)
        _, text = await get(page.address, "/metrics")
    assert promtool("check", "metrics", text=text) == ""


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    assert promtool("check", "rules", str(RULES)) == ""
    assert promtool("test", "rules", str(RULES_TEST)) == ""
    assert promtool("check", "config", str(RULES.with_name("prometheus.yml"))) == ""


def test_each_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    shown = re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", RULES_TEST.read_text())
    fired = {name for name, nothing in shown if not nothing}
    quiet = {name for name, nothing in shown if nothing}
    assert sorted(fired) == sorted(alerts)
    assert sorted(quiet) == sorted(alerts)
