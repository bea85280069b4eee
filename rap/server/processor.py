"""The processors of a server; each is imported when its name is first used."""

from typing import TYPE_CHECKING

from rap.lazy import Lazy, loader
from rap.processor.base import BaseProcessor

if TYPE_CHECKING:
    from rap.processor.compress import CompressProcessor
    from rap.processor.encryption import ServerCryptoProcessor as CryptoProcessor
    from rap.processor.limit import LimitProcessor, Rule
    from rap.processor.opentelemetry import OpenTelemetryProcessor
    from rap.processor.opentracing import TracingProcessor
    from rap.processor.prometheus import PrometheusMessageProcessor, PrometheusProcessor

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
        "CryptoProcessor": Lazy("rap.processor.encryption", "ServerCryptoProcessor", "crypto"),
        "LimitProcessor": Lazy("rap.processor.limit", "LimitProcessor"),
        "OpenTelemetryProcessor": Lazy(
            "rap.processor.opentelemetry", "OpenTelemetryProcessor", "otel"
        ),
        "PrometheusMessageProcessor": Lazy(
            "rap.processor.prometheus", "PrometheusMessageProcessor", "metrics"
        ),
        "PrometheusProcessor": Lazy("rap.processor.prometheus", "PrometheusProcessor", "metrics"),
        "Rule": Lazy("rap.processor.limit", "Rule"),
        "TracingProcessor": Lazy("rap.processor.opentracing", "TracingProcessor", "opentracing"),
    },
)
