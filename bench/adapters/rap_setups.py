"""How rap is set up for each of its own workloads: what is beside a plain call."""

import logging
import os
from typing import Any

from bench.adapter import Setup, certificate

__all__ = ["NEEDS", "client_options", "server_options"]

_KEY_ID, _KEY = "bench", "0123456789abcdef"
_HUGE = 128 << 20  # bytes of a message
_WITHOUT_END = 10**9  # tokens of a bucket that is never empty

# A module that a setup needs beside rap itself.
NEEDS = {
    "metrics": "prometheus_client",
    "traced": "opentelemetry.sdk",
    "unsampled": "opentelemetry.sdk",
    "crypto": "Crypto",
    "limit": "rap",
    "access": "rap",
    "compress": "rap",
    "huge": "rap",
}


def server_options(setup: Setup) -> dict[str, Any]:
    """Return the options of a server."""
    if setup == "tls":
        crt, key = certificate()
        return {"ssl_crt_path": crt, "ssl_key_path": key}
    if setup == "huge":
        return {"max_message": _HUGE}
    if setup == "access":
        return {"middleware_list": [_access_log()]}
    return {"processor_list": _processors(setup, of_server=True)}


def client_options(setup: Setup) -> dict[str, Any]:
    """Return the options of a client."""
    if setup == "tls":
        return {"ssl_ca_path": certificate()[0]}
    if setup == "huge":
        return {"max_message": _HUGE}
    return {"processor_list": _processors(setup, of_server=False)}


def _processors(setup: Setup, *, of_server: bool) -> list[Any]:
    from rap.client import processor as ours
    from rap.server import processor as theirs

    if setup == "metrics":
        return [ours.PrometheusProcessor()]
    if setup in {"traced", "unsampled"}:
        return [ours.OpenTelemetryProcessor(_provider(sampled=setup == "traced"))]
    if setup == "crypto":
        one = theirs.CryptoProcessor({_KEY_ID: _KEY}) if of_server else None
        return [one or ours.CryptoProcessor(_KEY_ID, _KEY)]
    if setup == "limit" and of_server:
        rule = theirs.Rule(second=1, gen_token=_WITHOUT_END, max_token=_WITHOUT_END)
        return [theirs.LimitProcessor("memory://", [(lambda request: "all", rule)])]
    if setup == "compress":
        return [ours.CompressProcessor(min_size=256)]  # a record is larger, two numbers are not
    return []


def _provider(*, sampled: bool) -> Any:
    """Return a provider whose spans are batched, as they should be, and then dropped."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import DEFAULT_OFF, DEFAULT_ON

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(DEFAULT_ON if sampled else DEFAULT_OFF)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return provider


def _access_log() -> Any:
    """Return the middleware, its lines formatted and written, but to no disk."""
    from rap.server.middleware import AccessMsgMiddleware

    log = logging.getLogger("rap.server.access")
    log.addHandler(logging.FileHandler(os.devnull))
    log.setLevel(logging.INFO)
    log.propagate = False
    return AccessMsgMiddleware()
