"""The service ``orders``, which calls ``calc``: ``rap serve integration.app.orders:make``."""

from integration.app.settings import settings
from rap.client import Client
from rap.server import Server
from rap.server.processor import PrometheusProcessor

__all__ = ["make"]


def make() -> Server:
    """Return a server that is set up by the environment."""
    chosen = settings()
    calc = Client(service="calc", **chosen.client_options())
    server = Server(
        chosen.listen,
        service="orders",
        start_event_list=[calc.connect],
        stop_event_list=[calc.await_close],
        processor_list=[PrometheusProcessor()],
        **chosen.server_options(),
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
