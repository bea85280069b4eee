"""The processors of a server; each is imported on first use of its name."""

from typing import TYPE_CHECKING

from rap._lazy import Lazy, loader
from rap.processor.base import BaseProcessor

if TYPE_CHECKING:
    from rap.processor.compress import CompressProcessor
    from rap.processor.encryption.processor import ServerCryptoProcessor as CryptoProcessor
    from rap.processor.limit import LimitProcessor, Rule
    from rap.processor.metrics.prometheus import PrometheusMessageProcessor, PrometheusProcessor
    from rap.processor.tracing.opentelemetry import OpenTelemetryProcessor
    from rap.processor.tracing.opentracing import TracingProcessor

__all__ = [
    "BaseProcessor",
    "CompressProcessor",
    "CryptoProcessor",
    "LimitProcessor",
    "OpenTelemetryProcessor",
    "PrometheusMessageProcessor",
    "PrometheusProcessor",
    "Rule",
    "TracingProcessor",
]

__getattr__ = loader(
    __name__,
    {
        "CompressProcessor": Lazy("rap.processor.compress", "CompressProcessor"),
        "CryptoProcessor": Lazy(
            "rap.processor.encryption.processor", "ServerCryptoProcessor", "crypto"
        ),
        "LimitProcessor": Lazy("rap.processor.limit", "LimitProcessor"),
        "OpenTelemetryProcessor": Lazy(
            "rap.processor.tracing.opentelemetry", "OpenTelemetryProcessor", "otel"
        ),
        "PrometheusMessageProcessor": Lazy(
            "rap.processor.metrics.prometheus", "PrometheusMessageProcessor", "metrics"
        ),
        "PrometheusProcessor": Lazy(
            "rap.processor.metrics.prometheus", "PrometheusProcessor", "metrics"
        ),
        "Rule": Lazy("rap.processor.limit", "Rule"),
        "TracingProcessor": Lazy(
            "rap.processor.tracing.opentracing", "TracingProcessor", "opentracing"
        ),
    },
)
