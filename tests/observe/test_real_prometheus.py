"""A Prometheus scrapes the page, keeps exemplars, and takes our rules; skipped where it is not."""

import asyncio
import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from rap.address import Address
from rap.observe import serve_metrics
from rap.server.processor import PrometheusProcessor
from tests.loopback import calling, serving
from tests.observe.http import get

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
METHOD = '{method="/default/add"}'

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


async def add(a: int, b: int) -> int:
    return a + b


def promtool(*args: str, text: str = "") -> str:
    """Run promtool; return what it has to say, nothing if all is well."""
    ran = subprocess.run(
        ["promtool", *args], input=text, capture_output=True, text=True, check=False
    )
    return ran.stdout + ran.stderr if ran.returncode else ""


@contextmanager
def prometheus(page: Address, folder: Path) -> Iterator[str]:
    """Run a Prometheus that scrapes a page and has our rules; yields where it answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = {
        "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(ROOT / "prometheus" / "rules.yml")],
        "scrape_configs": [{"job_name": "calc", "static_configs": [{"targets": [str(page)]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{port}/api/v1"
        finally:
            process.kill()
            process.wait()


def ask(url: str, **query: str) -> Any:
    """Return the data of an answer; nothing while there is none."""
    try:
        with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


async def until(what: Callable[[], Any]) -> Any:
    """Return what a question gives as soon as that is something."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await asyncio.to_thread(what)):  # noqa: ASYNC110  # over HTTP
            await asyncio.sleep(0.05)
    return found


@needs_prometheus
async def test_a_prometheus_scrapes_the_page(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with (
        serving(add, processor_list=[PrometheusProcessor(registry)]) as server,
        serve_metrics(server, registry=registry) as page,
        calling(server) as client,
    ):
        header = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
        for _ in range(3):
            await client.call(add, 1, 2, header=header)
        with prometheus(page.address, tmp_path) as api:

            def value() -> Any:
                data = ask(f"{api}/query", query=f"rap_server_handled_total{METHOD}")
                return data and data["result"]

            def exemplars() -> Any:
                name = f"rap_server_handling_seconds_bucket{METHOD}"
                times = {"start": "0", "end": "9999999999"}
                return ask(f"{api}/query_exemplars", query=name, **times)

            def recorded() -> Any:
                data = ask(f"{api}/query", query=f"method:rap_server_handled:rate1m{METHOD}")
                return data and data["result"]

            (series,) = await until(value)
            assert series["value"][1] == "3"
            assert series["metric"]["code"] == "OK"
            found = await until(exemplars)
            assert found[0]["exemplars"][0]["labels"] == {"trace_id": TRACE_ID}
            (rate,) = await until(recorded)
            assert rate["metric"]["job"] == "calc"


@needs_promtool
async def test_promtool_finds_nothing_wrong_with_the_page() -> None:
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
def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert promtool("check", "rules", str(ROOT / "prometheus" / "rules.yml")) == ""
