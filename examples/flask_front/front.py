"""A web application with Flask in front of the service in ``examples/stock.py``.

Run both from the root of the repository::

    rap serve examples.stock:server
    flask --app examples.flask_front.front run
    curl localhost:5000/stock/hat
    curl --no-buffer localhost:5000/stock/hat/changes   # in another terminal
    curl -X POST localhost:5000/orders --json '{"sku": "hat", "count": 1}'
"""

import os
from collections.abc import Iterator
from typing import Protocol

from flask import Flask, Response, abort, request
from flask.typing import ResponseReturnValue

from rap import CallError, SyncClient


class Stock(Protocol):
    """The functions of the service that this application calls."""

    def left(self, sku: str) -> int: ...
    def reserve(self, sku: str, count: int) -> int: ...
    def watch(self, sku: str) -> Iterator[int]: ...


# The first call connects it. Threads share it, and a forked worker process connects again.
client = SyncClient(os.environ.get("STOCK_ADDRESS", "localhost:9000"), timeout=2)
stock = client.bind(Stock)
app = Flask(__name__)


@app.errorhandler(CallError)
def failed(error: CallError) -> ResponseReturnValue:
    """Answer with the HTTP status of the error.

    Errors that the service raises with a code are written for callers. Other texts may name
    servers and addresses, so the answer has the code alone.
    """
    text = error.message if error.remote and error.http_status < 500 else error.code.name
    return {"error": text}, error.http_status


@app.get("/stock/<sku>")
def left(sku: str) -> ResponseReturnValue:
    return {"left": stock.left(sku)}


@app.post("/orders")
def order() -> ResponseReturnValue:
    match request.get_json():
        case {"sku": str(sku), "count": int(count)} if count > 0:
            return {"left": stock.reserve(sku, count)}, 201
        case _:
            abort(400)


@app.get("/stock/<sku>/changes")
def changes(sku: str) -> ResponseReturnValue:
    """Send how many items are left, one number a line, until the browser leaves.

    The first number is read before the response starts, so that an error still has its status.
    """
    numbers = stock.watch(sku)
    first = next(numbers)

    def lines() -> Iterator[str]:
        yield f"{first}\n"
        for number in numbers:
            yield f"{number}\n"

    return Response(lines(), mimetype="text/plain")
