"""A real browser: a page of another origin can neither call a function nor open a channel.

Skipped where there is no Chromium; ``apt-get install chromium`` has one.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from rap.channel import Channel
from rap.client import Client
from rap.gateway import create_app
from tests.loopback import eventually, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LOADED_WITHIN = 60.0  # seconds
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: install it")

# Each attack calls `record` with its own name. The page tells its server how each one ended.
PAGE = """<!doctype html><title>page</title><body><script>
const gateway = "GATEWAY", told = {};
const body = how => JSON.stringify({func_name: "record", arg_list: [how]});
const url = `http://${gateway}/api/normal`;
async function post(how, options) {
  try {
    const answer = await fetch(url, {method: "POST", body: body(how), ...options});
    told[how] = answer.type === "opaque" ? "opaque" : answer.status;
  } catch (error) { told[how] = "failed"; }
}
function form(how, enctype) {
  return new Promise(resolve => {
    const frame = document.createElement("iframe"), made = document.createElement("form");
    frame.name = how;
    document.body.append(frame, made);
    Object.assign(made, {method: "post", action: url, enctype, target: how});
    const field = document.createElement("input");
    field.name = body(how).slice(0, -1) + ',"func_type":"';
    field.value = '"}';
    made.append(field);
    frame.onload = () => { told[how] = "sent"; resolve(); };
    made.submit();
  });
}
function socket(how) {
  return new Promise(resolve => {
    const made = new WebSocket(`ws://${gateway}/api/channel`);
    made.onopen = () => made.send(JSON.stringify({func_name: "record_channel", arg_list: [how]}));
    made.onmessage = event => { told[how] = event.data; made.close(); resolve(); };
    made.onclose = () => { told[how] ??= "closed"; resolve(); };
  });
}
function sandboxed(how) {
  return new Promise(resolve => {
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.srcdoc = `<script>
      fetch("${url}", {method: "POST", mode: "no-cors", body: ${JSON.stringify(body(how))}})
        .catch(() => 0).then(() => parent.postMessage("${how}", "*"))</` + `script>`;
    addEventListener("message", event => { told[event.data] = "sent"; resolve(); });
    document.body.append(frame);
  });
}
const json = {"Content-Type": "application/json"};
(async () => {
  await post("json", {headers: json});
  await post("json without cors", {headers: json, mode: "no-cors"});
  await post("json with cookies", {headers: json, credentials: "include"});
  await post("text", {});
  await post("text without cors", {mode: "no-cors"});
  await post("no type", {mode: "no-cors", body: new Blob([body("no type")])});
  await post("url-encoded", {mode: "no-cors", body: new URLSearchParams(body("url-encoded"))});
  told.beacon = navigator.sendBeacon(url, body("beacon"));
  await form("form", "text/plain");
  await form("form of parts", "multipart/form-data");
  await sandboxed("sandbox");
  await socket("socket");
  await fetch("/told", {method: "POST", body: JSON.stringify(told)});
})();
</script>"""


class Visit:
    """What one visit to a page has brought about."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.told: dict[str, Any] = {}
        self.heard = asyncio.Event()
        self.gateway = ""

    async def record(self, how: str) -> str:
        self.ran.append(how)
        return how

    async def record_channel(self, channel: Channel, how: str) -> None:
        self.ran.append(how)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE.replace("GATEWAY", self.gateway))

    async def hear(self, request: Request) -> Response:
        self.told = await request.json()
        self.heard.set()
        return Response()

    @property
    def routes(self) -> list[Route]:
        return [Route("/page", self.page), Route("/told", self.hear, methods=["POST"])]


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[int]:
    """Serve an application; return its port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started or running.done())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def chromium(profile: Path, url: str) -> AsyncIterator[None]:
    """Open a page in a browser that ends with the block."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",  # it does not run as root otherwise
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",  # or it ends when the page has loaded
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def visit(profile: Path, *, own: bool, **options: Any) -> Visit:
    """Let a browser open the page at the gateway's own origin, or at another one."""
    made = Visit()
    async with (
        serving(made.record, made.record_channel) as server,
        Client(server.addresses) as client,
    ):
        app = Starlette(routes=[*made.routes, Mount("/", create_app("/api", client, **options))])
        async with listening(app) as port, listening(Starlette(routes=made.routes)) as other:
            made.gateway = f"localhost:{port}"
            place = made.gateway if own else f"127.0.0.1:{other}"
            async with chromium(profile, f"http://{place}/page"), asyncio.timeout(LOADED_WITHIN):
                await made.heard.wait()
    return made


ALL: Collection[str] = {
    "json",
    "json without cors",
    "json with cookies",
    "text",
    "text without cors",
    "no type",
    "url-encoded",
    "beacon",
    "form",
    "form of parts",
    "sandbox",
    "socket",
}


async def test_a_page_of_another_origin_calls_nothing(tmp_path: Path) -> None:
    found = await visit(tmp_path, own=False)
    assert found.told.keys() == ALL
    assert found.told["json"] == "failed"
    assert found.told["socket"] == "closed"
    assert found.ran == []


async def test_a_page_of_the_gateway_calls_functions_with_json(tmp_path: Path) -> None:
    found = await visit(tmp_path, own=True)
    assert found.told["json"] == found.told["json with cookies"] == 200
    assert found.told["text"] == found.told["url-encoded"] == 415
    assert found.told["socket"] == '{"code":0,"data":"accept"}'
    assert sorted(found.ran) == ["json", "json with cookies", "socket"]


async def test_an_allowed_page_of_another_origin_reads_answers_by_cors(tmp_path: Path) -> None:
    found = await visit(tmp_path, own=False, allowed_origins=["*"], cors=True)
    assert found.told["json"] == 200
    assert found.told["text"] == 415
    assert found.told["json with cookies"] == "failed"
    assert found.told["socket"] == '{"code":0,"data":"accept"}'
    assert sorted(found.ran) == ["json", "socket"]


async def test_a_rebound_name_is_refused_by_its_host(tmp_path: Path) -> None:
    found = await visit(tmp_path, own=True, allowed_hosts=["gateway.example"])
    assert found.told["json"] == 421
    assert found.told["socket"] == "closed"
    assert found.ran == []
