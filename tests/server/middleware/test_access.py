"""The access log: one line per call."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from rap.errors import PermissionDenied
from rap.server.middleware import AccessMsgMiddleware
from tests.loopback import calling, eventually, inside, serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def add(a: int, b: int) -> int:
    return a + b


async def fail(kind: str) -> None:
    raise {"builtin": LookupError("x"), "denied": PermissionDenied("no")}[kind]


class Recording(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def access(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    """The records of the access log, as they come."""
    handler = Recording()
    logger = logging.getLogger("rap.server.access")
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


def lines(records: list[Any]) -> list[dict[str, Any]]:
    return [record.access for record in records]


async def test_a_call_is_logged_with_all_fields(access: list[Any]) -> None:
    async with serving(add, middleware_list=[AccessMsgMiddleware()]) as server:
        async with calling(server) as client:
            await client.raw_call("add", 1, 2, header={"traceparent": f"00-{TRACE}-{'a' * 16}-01"})
            await eventually(lambda: lines(access))
            peer = next(iter(server.connection_manager.connections)).peer
    (fields,) = lines(access)
    assert 0 < fields.pop("duration_ms") < 10_000
    assert fields == {
        "method": "/default/add",
        "peer": str(peer),
        "status": "OK",
        "request_bytes": 3,
        "response_bytes": 1,
        "trace_id": TRACE,
    }
    (record,) = access
    assert (record.method, record.peer, record.code) == ("/default/add", str(peer), "OK")
    assert 0 < record.seconds < 10
    assert record.trace_id == TRACE
    line = record.getMessage()
    assert line.startswith(f"method=/default/add peer={peer} status=OK duration_ms=")
    assert line.endswith(f" request_bytes=3 response_bytes=1 trace_id={TRACE}")


async def test_an_error_has_its_code_and_the_name_of_an_exception(access: list[Any]) -> None:
    async with inside(fail, middleware_list=[AccessMsgMiddleware()]) as client:
        with pytest.raises(LookupError):
            await client.call(fail, "builtin")
        with pytest.raises(PermissionDenied):
            await client.call(fail, "denied")
        await eventually(lambda: len(lines(access)) == 2)
    one, other = lines(access)
    assert (one["status"], one["error"], one["response_bytes"]) == ("UNKNOWN", "LookupError", 0)
    assert other["status"] == "PERMISSION_DENIED"
    assert "error" not in other


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        ({"uber-trace-id": "5af7183fb1d4cf5f:1:0:1"}, "00000000000000005af7183fb1d4cf5f"),
        ({"traceparent": "forged\nmethod=/x"}, None),
        ({"traceparent": f"00-{TRACE}"}, None),
        ({"traceparent": 7}, None),
        ({}, None),
    ],
)
async def test_only_a_well_formed_trace_id_is_logged(
    access: list[Any], header: dict[str, Any], trace_id: str | None
) -> None:
    async with inside(add, middleware_list=[AccessMsgMiddleware()]) as client:
        await client.raw_call("add", 1, 2, header=header)
        await eventually(lambda: lines(access))
    assert lines(access)[0].get("trace_id") == trace_id


async def test_a_disabled_access_log_costs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "rap.server.access")
    async with inside(add, middleware_list=[AccessMsgMiddleware()]) as client:
        assert await client.call(add, 1, 2) == 3
    assert "rap.server.access" not in {record.name for record in caplog.records}
