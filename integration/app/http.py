"""The gateway to ``calc``: ``uvicorn --factory integration.app.http:make``."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from integration.app.settings import settings
from rap.client import Client
from rap.gateway import create_app

__all__ = ["make"]


def make() -> Starlette:
    """Return an application that is set up by the environment."""
    client = Client(service="calc", **settings().client_options())
    app = create_app("/api", client)
    app.add_route("/livez", _live)
    return app


async def _live(_: Request) -> PlainTextResponse:
    return PlainTextResponse("alive")
