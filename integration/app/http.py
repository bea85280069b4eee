"""The gateway: ``uvicorn --factory integration.app.http:make``.

``calc`` is behind ``/api``, and ``orders``, once there is one, behind ``/orders``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from integration.app.settings import settings
from integration.app.tracing import Tracing
from rap.client import Client
from rap.errors import Unavailable
from rap.gateway import create_app

__all__ = ["make"]


def make() -> Starlette:
    """Return an application that is set up by the environment."""
    chosen = settings()
    tracing = Tracing("gateway", chosen)
    calc, orders = (
        Client(**chosen.client_options(name, tracing.processors())) for name in ("calc", "orders")
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        connecting = asyncio.create_task(_connect(orders))
        try:
            async with chosen.metrics_page(calc), calc:
                yield
        finally:
            connecting.cancel()
            await asyncio.wait([connecting])
            await orders.await_close()
            await tracing.close()

    proxies = [each for each in chosen.proxies.split(",") if each]
    apps = (
        create_app(prefix, client, trusted_proxies=proxies)
        for prefix, client in (("/api", calc), ("/orders", orders))
    )
    routes = [route for app in apps for route in app.routes]
    return Starlette(routes=[*routes, Route("/livez", _live)], lifespan=lifespan)


async def _connect(client: Client) -> None:
    """Begin to look for servers; there may be none yet."""
    with contextlib.suppress(Unavailable):
        await client.connect()


async def _live(_: Request) -> PlainTextResponse:
    return PlainTextResponse("alive")
