"""A web application with FastAPI in front of the service in ``examples/stock.py``.

Run both from the root of the repository, and look at http://localhost:8000/docs::

    rap serve examples.stock:server
    uvicorn examples.fastapi_front.front:app
    curl localhost:8000/stock/hat
    curl --no-buffer localhost:8000/stock/hat/changes   # in another terminal
    curl -X POST localhost:8000/orders --json '{"sku": "hat", "count": 1}'
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, PositiveInt

from rap import CallError, Client


class Stock(Protocol):
    """The functions of the service that this application calls."""

    async def left(self, sku: str) -> int: ...
    async def reserve(self, sku: str, count: int) -> int: ...
    def watch(self, sku: str) -> AsyncIterator[int]: ...


client = Client(os.environ.get("STOCK_ADDRESS", "localhost:9000"), timeout=2)
stock = client.bind(Stock)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Connect the client when the application starts, and close it when it stops."""
    async with client:
        yield


app = FastAPI(title="shop", lifespan=lifespan)


class Order(BaseModel):
    sku: str
    count: PositiveInt


@app.exception_handler(CallError)
async def failed(request: Request, error: CallError) -> JSONResponse:
    """Answer with the HTTP status of the error.

    Errors that the service raises with a code are written for callers. Other texts may name
    servers and addresses, so the answer has the code alone.
    """
    text = error.message if error.remote and error.http_status < 500 else error.code.name
    return JSONResponse({"error": text}, error.http_status)


@app.get("/stock/{sku}")
async def left(sku: str) -> dict[str, int]:
    return {"left": await stock.left(sku)}


@app.post("/orders", status_code=201)
async def order(order: Order) -> dict[str, int]:
    return {"left": await stock.reserve(order.sku, order.count)}


@app.get("/stock/{sku}/changes")
async def changes(sku: str) -> StreamingResponse:
    """Send how many items are left, one number a line, until the browser leaves.

    The first number is read before the response starts, so that an error still has its status.
    """
    numbers = stock.watch(sku)
    first = await anext(numbers)

    async def lines() -> AsyncIterator[str]:
        yield f"{first}\n"
        async for number in numbers:
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")
