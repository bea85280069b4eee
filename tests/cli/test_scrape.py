"""The metrics page as `rap top --metrics-port` reads it."""

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry

from rap.cli.commands.top import InstanceMonitor
from rap.cli.scrape import CallCounters, CallRates, parse_page, scrape
from rap.client import Client
from rap.observe import serve_metrics
from rap.server.processor import PrometheusProcessor
from tests.cli.shop import invoke, shop
from tests.cli.test_top import remote

PAGE = """
# TYPE rap_server_handled_total counter
rap_server_handled_total{code="OK",method="/default/a",shape="unary"} 7.0
rap_server_handled_total{worker="1",code="ABORTED",method="/default/,code=\\"OK",shape="unary"} 3.0
rap_server_handling_seconds_bucket{le="0.001",method="/default/a",shape="unary"} 2.0
rap_server_handling_seconds_bucket{le="0.001",method="/default/}b",shape="unary"} 3.0
rap_server_handling_seconds_bucket{le="+Inf",method="/default/a",shape="unary"} 10.0
rap_server_handling_seconds_count{method="/default/a",shape="unary"} 10.0
other_total 5.0
"""


def test_a_page_is_read_for_all_functions_and_workers_together() -> None:
    assert parse_page(PAGE) == CallCounters(10.0, 3.0, {0.001: 5.0, float("inf"): 10.0})
    assert parse_page("") == CallCounters(0.0, 0.0, {})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (CallCounters(0, 0, {}), CallCounters(0, 0, {}), CallRates(0, 0, None, None)),
        (
            CallCounters(10, 1, {0.1: 5, 0.2: 10, float("inf"): 10}),
            CallCounters(30, 3, {0.1: 15, 0.2: 20, float("inf"): 30}),
            CallRates(10.0, 1.0, 0.1, 0.2),  # beyond the last bound nothing is known
        ),
        (
            CallCounters(0, 0, {}),
            CallCounters(4, 0, {0.5: 0, 1.5: 4, float("inf"): 4}),
            CallRates(2.0, 0.0, 1.0, 1.49),
        ),
        (CallCounters(5, 0, {}), CallCounters(4, 0, {}), None),  # another process
    ],
)
def test_rates_cover_the_time_between_two_measurements(
    before: CallCounters, after: CallCounters, expected: CallRates | None
) -> None:
    assert after.since(before, 2.0) == expected


async def test_an_instance_with_a_page_has_rates_and_quantiles() -> None:
    metrics = CollectorRegistry()
    async with shop(processor_list=[PrometheusProcessor(registry=metrics)]) as server:
        async with (
            serve_metrics(server, registry=metrics) as page,
            Client(server.addresses) as client,
            InstanceMonitor(
                remote(host=tuple(map(str, server.addresses))), page.address.port
            ) as monitor,
        ):
            (first,) = await monitor.measure()
            await client.raw_call("add", 1)
            with pytest.raises(ZeroDivisionError):
                await client.raw_call("fail", "bug")
            (second,) = await monitor.measure()
            port = str(page.address.port)
            found = await invoke(
                server, "top", "--once", "--json", "-i", "0.2", "--metrics-port", port
            )
    assert first["p99_ms"] is None
    assert second["calls_s"] > second["errors_s"] > 0
    assert 0 < second["p50_ms"] <= second["p99_ms"]
    (row,) = json.loads(found.stdout)
    assert (row["calls_s"], row["errors_s"], row["error"]) == (0.0, 0.0, None)


async def test_a_missing_page_is_reported() -> None:
    async with shop() as server:
        result = await invoke(server, "top", "--once", "--json", "-i", "0.2", "--metrics-port", "1")
    (row,) = json.loads(result.stdout)
    assert row["state"] == "up"
    assert row["error"].startswith("no metrics on port 1: ")
    assert "refused" in row["error"] or "Connect call failed" in row["error"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nrap_server_handled_total{} many\n", "cannot be read"),
        (b"\x16\x03\x01\xff\xff\r\n\r\n", "does not answer with a page"),
        (b"SSH-2.0\r\n\r\n", "does not answer with a page"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "has no metrics page"),
    ],
)
async def test_an_answer_that_is_not_a_metrics_page_is_reported(answer: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match=said):
            await scrape("127.0.0.1", port, 5.0)
