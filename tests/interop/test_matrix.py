"""Each feature with each stream type: the table of docs/calls.md, cell by cell.

`CELLS` names the test of each cell. A cell without a test says in a note why the feature does not
apply.
"""

import ast
import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from rap.call import Request
from rap.client import Client, SyncClient
from rap.client.processor import CompressProcessor, OpenTelemetryProcessor
from rap.client.processor import PrometheusProcessor as ClientPrometheus
from rap.errors import DeadlineExceeded, ResourceExhausted
from rap.processor.base import BaseProcessor
from rap.server import Server
from rap.server.middleware import BaseConnMiddleware, BaseMsgMiddleware
from rap.server.processor import LimitProcessor, Rule
from rap.server.processor import PrometheusProcessor as ServerPrometheus
from rap.transport import Connection
from tests.interop.kinds import (
    KINDS,
    Log,
    Outcome,
    Source,
    call,
    functions,
    plain_functions,
    sync_call,
)
from tests.loopback import calling, eventually, serving, within
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto
from tests.processor.relay import relaying

ON_BOTH_LOOPS = True
ROOT = Path(__file__).parents[2]
HEADING = "## Features by stream type"
METADATA: tuple[dict[str, Any], dict[str, Any]] = ({"color": "blue"}, {"cost": 3})
all_kinds = pytest.mark.parametrize("kind", KINDS)
plain_kinds = pytest.mark.parametrize("kind", KINDS[:-1])
streaming_kinds = pytest.mark.parametrize("kind", KINDS[2:])


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def server(log: Log) -> AsyncIterator[Server]:
    async with serving(*functions(log)) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


@all_kinds
async def test_a_client_calls(client: Client, kind: str) -> None:
    assert await within(call(client, kind, [1, 2, 3])) == Outcome([2, 4, 6], *METADATA)


@all_kinds
async def test_a_sync_client_calls(server: Server, kind: str) -> None:
    def run() -> Outcome:
        with SyncClient([str(each) for each in server.addresses]) as client:
            return sync_call(client, kind, [1, 2, 3])

    assert await within(asyncio.to_thread(run)) == Outcome([2, 4, 6], *METADATA)


@plain_kinds
async def test_a_plain_function_answers(kind: str) -> None:
    async with serving(*plain_functions()) as server, calling(server) as client:
        assert (await within(call(client, kind, [1, 2, 3]))).numbers == [2, 4, 6]


@all_kinds
async def test_a_call_is_in_the_session_of_its_caller(client: Client, log: Log, kind: str) -> None:
    async with client.session as session:
        for _ in range(2):
            await within(call(client, kind, [1]))
        await within(call(client, kind, [1], session=session))
    assert log.sessions == [session.id] * 3


@plain_kinds
async def test_a_call_that_no_handler_has_seen_is_tried_on_another_server(
    log: Log, kind: str
) -> None:
    async with serving(*functions(log)) as new, serving() as old, calling(new, old) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        for _ in range(10):
            source = _Late(new, [1, 2]) if "streaming" in kind or kind == KINDS[3] else [1, 2]
            assert (await within(call(client, kind, source))).numbers == [2, 4]


class _Late(Source):
    """A source that waits until a server has a call."""

    def __init__(self, server: Server, numbers: list[int]) -> None:
        super().__init__(numbers)
        self._server = server

    async def __aiter__(self) -> AsyncIterator[int]:
        connections = self._server.connection_manager.connections
        await eventually(lambda: any(conn.streams for conn in connections))
        async for number in super().__aiter__():
            yield number


@all_kinds
async def test_a_deadline_ends_both_sides(client: Client, log: Log, kind: str) -> None:
    with pytest.raises(DeadlineExceeded):
        await within(call(client, kind, [1, 0], timeout=0.1))
    if log.waits.is_set():
        await within(log.ended.wait())


@all_kinds
async def test_a_caller_that_is_cancelled_cancels_the_handler(
    client: Client, log: Log, kind: str
) -> None:
    task = asyncio.create_task(call(client, kind, [1, 0]))
    await within(log.waits.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    await within(log.ended.wait())


@streaming_kinds
async def test_a_handler_that_ends_stops_the_client(client: Client, kind: str) -> None:
    source = Source(itertools.chain([1], itertools.repeat(-1)))
    with pytest.raises(ValueError, match="a negative number"):
        await within(call(client, kind, source))
    await within(source.closed.wait())


class _Counting(BaseMsgMiddleware):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def dispatch(self, request: Request, call_id: int, func: Any, *param: Any) -> Any:
        self.seen.append(request.call.method)
        return await self.call_next(request, call_id, func, *param)


class _Admitting(BaseConnMiddleware):
    def __init__(self) -> None:
        self.seen = 0

    async def dispatch(self, conn: Connection) -> None:
        self.seen += 1
        await self.call_next(conn)


@all_kinds
async def test_connection_middleware_admits_the_client_of_a_call(log: Log, kind: str) -> None:
    middleware = _Admitting()
    options = {"middleware_list": [middleware]}
    async with serving(*functions(log), **options) as server, calling(server) as client:
        assert (await within(call(client, kind, [1]))).numbers == [2]
    assert middleware.seen == 1


@pytest.mark.parametrize("kind", ["unary", "client_streaming"])
async def test_message_middleware_is_around_a_call(log: Log, kind: str) -> None:
    middleware = _Counting()
    options = {"middleware_list": [middleware]}
    async with serving(*functions(log), **options) as server, calling(server) as client:
        assert (await within(call(client, kind, [1]))).numbers == [2]
    assert middleware.seen == [f"/default/{kind}"]


async def processed(
    log: Log, kind: str, server: list[BaseProcessor], client: list[BaseProcessor]
) -> Outcome:
    """Call a function through processors of both sides."""
    async with serving(*functions(log), processor_list=server) as running:
        async with calling(running, processor_list=client) as caller:
            return await within(call(caller, kind, [1, 2, 3]))


@all_kinds
async def test_metrics_count_a_call(log: Log, kind: str) -> None:
    there, here = CollectorRegistry(), CollectorRegistry()
    server, client = ServerPrometheus(registry=there), ClientPrometheus(registry=here)
    await processed(log, kind, [server], [client])
    for side, registry in (("server", there), ("client", here)):
        samples = [each for metric in registry.collect() for each in metric.samples]
        method = f"/default/{kind}"
        ended = [
            (each.labels["code"], each.value)
            for each in samples
            if each.name == f"rap_{side}_handled_total" and each.labels["method"] == method
        ]
        assert [each for each in ended if each[1]] == [("OK", 1.0)]


@all_kinds
async def test_a_trace_has_a_span_of_each_side(log: Log, kind: str) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    here, there = OpenTelemetryProcessor(provider), OpenTelemetryProcessor(provider)
    await processed(log, kind, [there], [here])
    spans = {span.kind.name: span for span in exporter.get_finished_spans()}
    assert sorted(spans) == ["CLIENT", "SERVER"]
    parent = spans["SERVER"].parent
    assert parent is not None
    assert spans["CLIENT"].context is not None
    assert parent.span_id == spans["CLIENT"].context.span_id


@all_kinds
@pytest.mark.parametrize("also_compressed", [False, True])
async def test_an_encrypted_call_shows_nothing_on_the_wire(
    log: Log, kind: str, also_compressed: bool
) -> None:
    secret = 1_234_567_890_123_456_789
    server: list[BaseProcessor] = [ServerCrypto({KEY_ID: KEY})]
    client: list[BaseProcessor] = [ClientCrypto(KEY_ID, KEY)]
    if also_compressed:
        server.insert(0, CompressProcessor())
        client.insert(0, CompressProcessor())
    async with serving(*functions(log), processor_list=server) as running:
        async with relaying(running.addresses[0].port) as relay:
            async with Client(relay.address, processor_list=client) as caller:
                outcome = await within(call(caller, kind, [secret]))
        assert outcome == Outcome([2 * secret], *METADATA)
        assert secret.to_bytes(8, "big") not in bytes(relay.sent)
        assert (2 * secret).to_bytes(8, "big") not in bytes(relay.answered)


@all_kinds
async def test_compression_leaves_a_call_as_it_is(log: Log, kind: str) -> None:
    both: list[list[BaseProcessor]] = [[CompressProcessor(min_size=1)] for _ in range(2)]
    assert await processed(log, kind, *both) == Outcome([2, 4, 6], *METADATA)


@all_kinds
async def test_a_limit_refuses_a_call(log: Log, kind: str) -> None:
    rule = Rule(minute=1, max_token=1, init_token=0)
    limit = LimitProcessor("memory://", [(lambda request: "all", rule)])
    with pytest.raises(ResourceExhausted) as caught:
        await processed(log, kind, [limit], [])
    assert caught.value.details["retry_after"] > 0
    assert log.sessions == []


# The table.


def own(name: str, kinds: list[str] | None = None) -> dict[str, str]:
    """Return the cells of a feature that a test of this module covers."""
    return dict.fromkeys(KINDS if kinds is None else kinds, f"interop/test_matrix.py::{name}")


REQUESTS = "client/test_request_streams.py"
CHANNEL = "test_channel.py::test_a_slow_reader_stops_a_fast_writer"
CONSUMER = f"{REQUESTS}::test_a_consumer_that_does_not_read_stops_the_source"
CELLS: dict[str, dict[str, str]] = {
    "`Client`": own("test_a_client_calls"),
    "`SyncClient`": own("test_a_sync_client_calls"),
    "`async def` on the server": own("test_a_client_calls"),
    "`def` on the server": own("test_a_plain_function_answers", KINDS[:-1]),
    "sessions": own("test_a_call_is_in_the_session_of_its_caller"),
    "retries": own("test_a_call_that_no_handler_has_seen_is_tried_on_another_server", KINDS[:-1]),
    "hedged requests": {
        "unary": "client/test_hedging.py"
        "::test_a_late_call_is_answered_by_another_server_and_cancelled_at_the_first"
    },
    "deadlines": own("test_a_deadline_ends_both_sides"),
    "the client cancels": own("test_a_caller_that_is_cancelled_cancels_the_handler"),
    "the server ends early": own("test_a_handler_that_ends_stops_the_client", KINDS[2:]),
    "flow control of requests": {
        "client_streaming": f"{REQUESTS}::test_a_server_that_does_not_read_stops_the_source",
        "bidirectional": CONSUMER,
        "channel": CHANNEL,
    },
    "flow control of responses": {
        "generator": "client/test_generators.py::test_a_slow_consumer_pauses_the_generator",
        "bidirectional": CONSUMER,
        "channel": CHANNEL,
    },
    "header and trailer": own("test_a_client_calls"),
    "connection middleware": own("test_connection_middleware_admits_the_client_of_a_call"),
    "message middleware": own(
        "test_message_middleware_is_around_a_call", ["unary", "client_streaming"]
    ),
    "metrics": own("test_metrics_count_a_call"),
    "traces": own("test_a_trace_has_a_span_of_each_side"),
    "encryption": own("test_an_encrypted_call_shows_nothing_on_the_wire"),
    "compression": own("test_compression_leaves_a_call_as_it_is"),
    "rate limits": own("test_a_limit_refuses_a_call"),
    "gateway": {
        "unary": "gateway/test_app.py::test_a_function_is_called",
        "generator": "gateway/test_app.py::test_items_of_a_generator_are_sent_as_events",
        "client_streaming": "gateway/test_streams.py::test_a_body_in_pieces_is_read_as_it_arrives",
        "bidirectional": "gateway/test_streams.py"
        "::test_a_bidirectional_call_answers_lines_with_events",
        "channel": "gateway/test_app.py::test_a_channel_carries_text_both_ways",
    },
    "`rap call`": {
        **dict.fromkeys(
            ["unary", "generator"], "cli/test_call.py::test_it_prints_the_answer_of_the_function"
        ),
        **dict.fromkeys(
            ["client_streaming", "bidirectional"],
            "cli/test_call.py::test_lines_of_the_input_are_the_items_of_a_request_stream",
        ),
        "channel": "cli/test_call.py::test_lines_of_the_input_are_the_messages_to_a_channel",
    },
    "`rap stub`": {
        "unary": "cli/test_stub.py::test_every_type_can_be_sent_and_returned",
        "generator": "cli/test_stub.py::test_generators_channels_and_awkward_names_work",
        **dict.fromkeys(
            KINDS[2:], "cli/test_stub.py::test_request_streams_and_channels_have_types"
        ),
    },
    "`rap describe`": {
        **dict.fromkeys(
            ["unary", "generator", "channel"],
            "cli/test_describe.py::test_the_description_has_every_detail",
        ),
        **dict.fromkeys(
            ["client_streaming", "bidirectional"],
            "cli/test_describe.py::test_items_and_messages_are_described_with_their_parameter",
        ),
    },
}


def table() -> tuple[list[str], dict[str, list[str]], set[str]]:
    """Return the head of the documented table, its rows, and the numbers of its notes."""
    text = (ROOT / "docs/calls.md").read_text()
    section = text.split(f"\n{HEADING}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    notes = set(re.findall(r"^(\d+)\. ", section, re.MULTILINE))
    return rows[0][1:], {row[0]: row[1:] for row in rows[2:]}, notes


def test_each_cell_of_the_table_has_a_test_or_a_reason() -> None:
    head, rows, notes = table()
    assert [name.replace(" ", "_") for name in head] == KINDS
    assert list(rows) == list(CELLS)
    used = set()
    for feature, cells in rows.items():
        for kind, cell in zip(KINDS, cells, strict=True):
            where = f"{feature}, {kind}"
            if kind in CELLS[feature]:
                assert cell == "yes", where
            else:
                found = re.fullmatch(r"no \((\d+)\)", cell)
                assert found, where
                used.add(found[1])
    assert used == notes


def test_each_test_that_the_table_names_exists() -> None:
    for reference in {each for cells in CELLS.values() for each in cells.values()}:
        path, name = reference.split("::")
        tree = ast.parse((ROOT / "tests" / path).read_text())
        assert name in {getattr(node, "name", "") for node in tree.body}, reference
