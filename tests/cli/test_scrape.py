"""What `rap top --metrics-port` reads of a page of metrics."""

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry

from rap.cli.commands.top import Board
from rap.cli.scrape import Counted, Rates, read_page, scrape
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
    assert read_page(PAGE) == Counted(10.0, 3.0, {0.001: 5.0, float("inf"): 10.0})
    assert read_page("") == Counted(0.0, 0.0, {})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Counted(0, 0, {}), Counted(0, 0, {}), Rates(0, 0, None, None)),
        (
            Counted(10, 1, {0.1: 5, 0.2: 10, float("inf"): 10}),
            Counted(30, 3, {0.1: 15, 0.2: 20, float("inf"): 30}),
            Rates(10.0, 1.0, 0.1, 0.2),  # beyond the last bound nothing is known
        ),
        (
            Counted(0, 0, {}),
            Counted(4, 0, {0.5: 0, 1.5: 4, float("inf"): 4}),
            Rates(2.0, 0.0, 1.0, 1.49),
        ),
        (Counted(5, 0, {}), Counted(4, 0, {}), None),  # another process
    ],
)
def test_two_looks_tell_of_the_time_between_them(
    before: Counted, after: Counted, expected: Rates | None
) -> None:
    assert after.since(before, 2.0) == expected


async def test_an_instance_with_a_page_tells_rates_and_quantiles() -> None:
    metrics = CollectorRegistry()
    async with shop(processor_list=[PrometheusProcessor(registry=metrics)]) as server:
        async with (
            serve_metrics(server, registry=metrics) as page,
            Client(server.addresses) as client,
            Board(remote(host=tuple(map(str, server.addresses))), page.address.port) as board,
        ):
            (first,) = await board.look()
            await client.raw_call("add", 1)
            with pytest.raises(ZeroDivisionError):
                await client.raw_call("fail", "bug")
            (second,) = await board.look()
            port = str(page.address.port)
            found = await invoke(
                server, "top", "--once", "--json", "-i", "0.2", "--metrics-port", port
            )
    assert first["p99_ms"] is None
    assert second["calls_s"] > second["errors_s"] > 0
    assert 0 < second["p50_ms"] <= second["p99_ms"]
    (row,) = json.loads(found.stdout)
    assert (row["calls_s"], row["errors_s"], row["error"]) == (0.0, 0.0, None)


async def test_a_page_that_is_not_there_is_told() -> None:
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
        (b"\x16\x03\x01\xff\xff\r\n\r\n", "what is no page"),
        (b"SSH-2.0\r\n\r\n", "what is no page"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "has no page of metrics"),
    ],
)
async def test_what_is_no_page_of_metrics_is_told(answer: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match=said):
            await scrape("127.0.0.1", port, 5.0)
