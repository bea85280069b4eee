"""The service ``orders``, which calls ``calc``: ``rap serve integration.app.orders:make``."""

from prometheus_client import REGISTRY

from integration.app.settings import settings
from integration.app.tracing import Tracing
from rap.client import Client
from rap.observe import StatusCollector
from rap.server import Server
from rap.server.processor import PrometheusProcessor

__all__ = ["make"]


def make() -> Server:
    """Return a server that is set up by the environment."""
    chosen = settings()
    tracing = Tracing("orders", chosen)
    calc = Client(**chosen.client_options("calc", tracing.processors()))
    REGISTRY.register(StatusCollector(clients=[calc]))  # the page of `rap serve` has the server's
    server = Server(
        chosen.listen,
        start_event_list=[calc.connect],
        stop_event_list=[calc.await_close, tracing.close],
        processor_list=[*tracing.processors(), PrometheusProcessor()],
        **chosen.server_options("orders"),
    )

    @calc.register(idempotent=True)
    async def add(a: int, b: int) -> int:
        return a + b  # never run here: calls go to `calc`

    @server.register(idempotent=True)
    async def total(prices: list[int]) -> int:
        result = 0
        for price in prices:
            result = await add(result, price)
        return result

    return server
