"""Collectors of spans on loopback, which decode what really comes over the wire.

`OtlpCollector` takes OTLP over HTTP, `JaegerAgent` the datagrams of jaeger-client; both tell the
same `Collected` spans. What they yield as `environ` sends the example's spans there.
"""

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from jaeger_client.thrift_gen.agent import Agent
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.transport.TTransport import TMemoryBuffer

__all__ = ["Collected", "Collector", "JaegerAgent", "OtlpCollector"]

_KINDS = {1: "internal", 2: "server", 3: "client"}  # Span.SpanKind of OTLP
_64_BITS = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Collected:
    """One span, as a collector got it.

    Args:
        service: Of the process that made it.
        instance: Of the process that made it.
        name: Of what it is about.
        kind: ``client``, ``server`` or ``internal``.
        trace_id: 128 bits.
        span_id: 64 bits.
        parent_id: Id of its parent; 0 without one.
        start: Seconds since 1970.
        seconds: From its start to its end.
        tags: Its attributes.
        events: Name and attributes of each.
    """

    service: str
    instance: str
    name: str
    kind: str
    trace_id: int
    span_id: int
    parent_id: int
    start: float
    seconds: float
    tags: Mapping[str, Any]
    events: Sequence[tuple[str, Mapping[str, Any]]] = field(default=())


class Collector:
    """What both have: spans, and somebody who waits for them."""

    environ: dict[str, str]

    def __init__(self) -> None:
        self._spans: list[Collected] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()
        self._thread.join()

    def wait_for(
        self, enough: Callable[[list[Collected]], object], timeout: float
    ) -> list[Collected]:
        """Return all spans once they are enough.

        Raises:
            TimeoutError: They were not, in so many seconds; it says what has come.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self._spans), timeout):
                came = sorted(f"{span.service}: {span.name} {span.kind}" for span in self._spans)
                raise TimeoutError(f"after {timeout:g} s there were only {came}")
            return list(self._spans)

    def _take(self, spans: Sequence[Collected]) -> None:
        with self._changed:
            self._spans += spans
            self._changed.notify_all()

    def _run(self) -> None:
        raise NotImplementedError

    def _stop(self) -> None:
        raise NotImplementedError


class OtlpCollector(Collector):
    """Takes ``POST /v1/traces`` with an `ExportTraceServiceRequest`."""

    def __init__(self) -> None:
        super().__init__()
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                right = self.path == "/v1/traces"
                right = right and self.headers["Content-Type"] == "application/x-protobuf"
                if right:
                    take(_of_otlp(ExportTraceServiceRequest.FromString(body)))
                self.send_response(200 if right else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # Half a second, not five, after a span has ended it is sent.
        self.environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "500"}

    def _run(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class JaegerAgent(Collector):
    """Takes `emitBatch` in the compact protocol of Thrift, one in a datagram."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.environ = {"JAEGER_AGENT_HOST": "127.0.0.1", "JAEGER_AGENT_PORT": f"{self.port}"}

    def _run(self) -> None:
        while datagram := self._socket.recv(65536):
            self._take(_of_jaeger(datagram))

    def _stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


def _of_otlp(request: ExportTraceServiceRequest) -> list[Collected]:
    return [
        Collected(
            service=_values(batch.resource.attributes).get("service.name", ""),
            instance=_values(batch.resource.attributes).get("service.instance.id", ""),
            name=span.name,
            kind=_KINDS.get(span.kind, "?"),
            trace_id=int.from_bytes(span.trace_id),
            span_id=int.from_bytes(span.span_id),
            parent_id=int.from_bytes(span.parent_span_id),
            start=span.start_time_unix_nano / 1e9,
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            tags=_values(span.attributes),
            events=[(event.name, _values(event.attributes)) for event in span.events],
        )
        for batch in request.resource_spans
        for scope in batch.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _of_jaeger(datagram: bytes) -> list[Collected]:
    protocol = TCompactProtocol(TMemoryBuffer(datagram))
    name, _, _ = protocol.readMessageBegin()
    assert name == "emitBatch"
    arguments: Any = Agent.emitBatch_args()  # type: ignore[no-untyped-call,unused-ignore]
    arguments.read(protocol)
    batch = arguments.batch
    process = _fields(batch.process.tags)
    return [
        Collected(
            service=batch.process.serviceName,
            instance=process.get("instance", ""),
            name=span.operationName,
            kind=_fields(span.tags).get("span.kind", "internal"),
            trace_id=(span.traceIdHigh & _64_BITS) << 64 | span.traceIdLow & _64_BITS,
            span_id=span.spanId & _64_BITS,
            parent_id=span.parentSpanId & _64_BITS,
            start=span.startTime / 1e6,
            seconds=span.duration / 1e6,
            tags=_fields(span.tags),
            events=[_line(_fields(log.fields)) for log in span.logs or ()],
        )
        for span in batch.spans
    ]


def _fields(tags: Any) -> dict[str, Any]:
    """Return tags by key; each has its value in the field of its type."""
    of_type = ("vStr", "vDouble", "vBool", "vLong", "vBinary")  # in the order of TagType
    return {tag.key: getattr(tag, of_type[tag.vType]) for tag in tags or ()}


def _line(fields: dict[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return str(fields.pop("event", "")), fields
