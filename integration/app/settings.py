"""What the programs of the example read from the environment."""

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rap.client import Client
from rap.client.processor import BaseProcessor, CryptoProcessor, PrometheusProcessor
from rap.observe import serve_metrics

__all__ = ["KEY_ID", "Settings", "settings"]

KEY_ID = "example"  # of the key in APP_SECRET
_LOOKED_UP = ("dns://", "static://")  # registries in which nobody registers


@dataclass(frozen=True, slots=True)
class Settings:
    """One value of each; all of them are text, and an empty one is none.

    Args:
        listen: Address on which a service listens.
        registry: URL of the registry.
        state: URL of the Redis that counts limits and nonces for all instances; none: in memory.
        name: What an instance calls itself in answers.
        certificate: PEM file of a server; with it and `key` a service speaks TLS.
        key: PEM file of its key.
        authority: PEM file of the authority that the other side's certificate must be of.
        secret: Key of encrypted calls to ``calc``: 16, 24 or 32 characters; none: plain calls.
        metrics: Where programs that are no servers show metrics and health; none: nowhere.
        otlp: URL of a collector that takes OTLP over HTTP, such as ``http://jaeger:4318``; none:
            no spans go there. Sampler, time-out, headers and so on are set by the other variables
            of OpenTelemetry, such as ``OTEL_TRACES_SAMPLER``.
        jaeger: Host to which jaeger-client sends spans by UDP, to the port ``JAEGER_AGENT_PORT``,
            by default 6831, unless `otlp` is set; none: no spans go there.
        local: Which clients of a service count as local: ``loopback``, ``unix`` or ``none``.
        proxies: Addresses and networks of proxies before the gateway, with commas between them.
        service: What a program is called among spans; by default what it is: ``calc``, ``orders``,
            ``gateway`` or ``load``.
    """

    listen: str
    registry: str
    state: str
    name: str
    certificate: str
    key: str
    authority: str
    secret: str = field(repr=False)
    metrics: str
    otlp: str
    jaeger: str
    service: str
    local: str
    proxies: str = ""

    def server_options(self, service: str) -> dict[str, Any]:
        """Return what every service of the example passes to `Server`."""
        registers = not self.registry.startswith(_LOOKED_UP)
        return {
            "service": service,
            "registry": self.registry if registers else None,
            "ssl_crt_path": self.certificate or None,
            "ssl_key_path": self.key or None,
            "ssl_ca_path": self.authority or None,
            "local": None if self.local == "none" else self.local,
        }

    def client_options(
        self, service: str, processors: Sequence[BaseProcessor] = ()
    ) -> dict[str, Any]:
        """Return what every client of the example passes to `Client`.

        Inside the cluster a certificate is for both roles, so that services prove themselves to
        each other with one pair of files.

        Args:
            service: Which it calls.
            processors: That see its calls before they are counted and encrypted.
        """
        found = [*processors, PrometheusProcessor()]
        if self.secret and service == "calc":
            found.append(CryptoProcessor(KEY_ID, self.secret))
        return {
            "service": service,
            "registry": self.registry,
            "processor_list": found,
            "ssl_ca_path": self.authority or None,
            "ssl_client_crt_path": (self.authority and self.certificate) or None,
            "ssl_client_key_path": (self.authority and self.key) or None,
        }

    @contextlib.asynccontextmanager
    async def metrics_page(self, *clients: Client) -> AsyncIterator[None]:
        """Show metrics and health of a program of clients around the body, if that is wanted."""
        if not self.metrics:
            yield
            return
        host, _, port = self.metrics.rpartition(":")
        async with serve_metrics(client=clients, host=host, port=int(port)) as page:
            print(f"metrics at http://{page.address}/metrics", flush=True)
            yield


def settings() -> Settings:
    """Read the environment: ``APP_LISTEN``, ``APP_REGISTRY`` and so on.

    Those about spans have the names that their libraries read, too: ``OTEL_EXPORTER_OTLP_ENDPOINT``
    (or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``), ``JAEGER_AGENT_HOST`` and ``OTEL_SERVICE_NAME``.
    """
    otlp = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    registry = os.environ.get("APP_REGISTRY") or "redis://localhost:6379/0"
    return Settings(
        listen=os.environ.get("APP_LISTEN") or "0.0.0.0:9000",
        registry=registry,
        state=os.environ.get("APP_STATE", ""),
        name=os.environ.get("APP_NAME") or socket.gethostname(),
        certificate=os.environ.get("APP_CERTIFICATE", ""),
        key=os.environ.get("APP_KEY", ""),
        authority=os.environ.get("APP_AUTHORITY", ""),
        secret=os.environ.get("APP_SECRET", ""),
        metrics=os.environ.get("APP_METRICS", ""),
        otlp=otlp or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        jaeger=os.environ.get("JAEGER_AGENT_HOST", ""),
        service=os.environ.get("OTEL_SERVICE_NAME", ""),
        local=os.environ.get("APP_LOCAL") or "loopback",
        proxies=os.environ.get("APP_PROXIES", ""),
    )
