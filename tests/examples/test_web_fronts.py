"""The examples of web applications: the same requests to each, over HTTP, with the real service."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any, NamedTuple, Protocol

import pytest

from rap import SyncClient
from tests.cli.programs import PATIENCE, ROOT, wait_until
from tests.ports import free_port

COMMANDS = {
    "fastapi": ["uvicorn", "examples.fastapi_front.front:app"],
    "flask": ["flask", "--app", "examples.flask_front.front", "run"],
}


# Without the proxies that the environment may name.
BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Stock(Protocol):
    def reserve(self, sku: str, count: int) -> int: ...
    def watchers(self, sku: str) -> int: ...


class Site(NamedTuple):
    """A web application that runs, and the service behind it."""

    url: str
    stock: Stock

    def open(self, path: str, body: object = None) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}
        )
        response = BROWSER.open(request, timeout=PATIENCE)
        assert isinstance(response, HTTPResponse)
        return response

    def answer(self, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and JSON of the answer."""
        try:
            with self.open(path, body) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def is_up(self) -> bool:
        try:
            return self.answer("/stock/hat")[0] == 200
        except OSError:
            return False


@contextmanager
def running(*args: str, address: str) -> Iterator[None]:
    """Run a program around the body."""
    process = subprocess.Popen(
        [sys.executable, "-m", *args],
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "STOCK_ADDRESS": address},
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(params=COMMANDS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    pytest.importorskip(request.param, reason=f"the extra dev has {request.param}")
    address, port = f"localhost:{free_port()}", free_port()
    with (
        running("rap.cli", "serve", "examples.stock:server", address=address),
        running(*COMMANDS[request.param], "--port", str(port), address=address),
        SyncClient(address) as client,
    ):
        site = Site(f"http://localhost:{port}", client.bind(Stock))
        wait_until(site.is_up, "the web application")
        yield site


def test_an_order_leaves_less(site: Site) -> None:
    assert site.answer("/stock/hat") == (200, {"left": 3})
    assert site.answer("/orders", {"sku": "hat", "count": 2}) == (201, {"left": 1})
    assert site.answer("/stock/hat") == (200, {"left": 1})


def test_an_error_has_its_status_and_what_the_service_says(site: Site) -> None:
    assert site.answer("/stock/cap") == (404, {"error": "there is no cap"})
    assert site.answer("/orders", {"sku": "hat", "count": 9}) == (409, {"error": "only 3 left"})
    with pytest.raises(urllib.error.HTTPError, match="404"):
        site.open("/stock/cap/changes")
    for count in (0, "two"):
        with pytest.raises(urllib.error.HTTPError, match=r"4(00|22)"):
            site.open("/orders", {"sku": "hat", "count": count})


def test_changes_are_sent_until_the_browser_leaves(site: Site) -> None:
    with site.open("/stock/hat/changes") as response:
        assert response.readline() == b"3\n"
        assert site.answer("/orders", {"sku": "hat", "count": 1})[0] == 201
        assert response.readline() == b"2\n"
        assert site.stock.watchers("hat") == 1

    def has_ended() -> bool:
        site.stock.reserve("hat", 0)  # a server may notice only when it writes
        return site.stock.watchers("hat") == 0

    wait_until(has_ended, "the end of the stream")
