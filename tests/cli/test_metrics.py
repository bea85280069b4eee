"""`rap serve --metrics-port`: a page for one server, and one for each worker."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rap.address import Address
from rap.cli.metrics import MetricsPort
from rap.client import Client
from tests.cli.programs import PATIENCE, ROOT, line_with, rap
from tests.observe.http import get

MODULE = """
from rap.server import Server
from rap.server.processor import PrometheusProcessor

def make() -> Server:
    server = Server("127.0.0.1:0", processor_list=[PrometheusProcessor()])

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    return server
"""
PAGE = re.compile(r"rap: metrics at http://(\S+)/metrics")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(MODULE)
    return tmp_path


def page_of(process: subprocess.Popen[str]) -> Address:
    line = line_with(process, "rap: metrics at")
    found = PAGE.match(line)
    assert found is not None, line
    return Address.parse(found[1])


async def test_a_served_server_shows_its_metrics_until_it_is_told_to_stop(shop: Path) -> None:
    with rap("serve", "shop:make", "--metrics-port", "0", cwd=shop) as process:
        page = await asyncio.to_thread(page_of, process)
        line = await asyncio.to_thread(line_with, process, "rap: listening on")
        async with Client(line.split()[-1]) as client, asyncio.timeout(PATIENCE):
            assert await client.raw_call("add", 1, 2) == 3
            assert (await get(page, "/readyz"))[0] == 200
            _, body = await get(page, "/metrics")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    assert 'rap_server_handled_total{code="OK",method="/default/add",shape="unary"} 1.0' in body
    assert "process_resident_memory_bytes" in body


async def test_each_worker_has_a_page_of_its_own(shop: Path) -> None:
    options = ("--workers", "2", "--metrics-port", "0")
    with rap("serve", "shop:make", *options, cwd=shop) as process:
        async with asyncio.timeout(PATIENCE):
            pages = [await asyncio.to_thread(page_of, process) for _ in range(2)]
            assert len(set(pages)) == 2
            for page in pages:
                assert (await get(page, "/healthz"))[0] == 200


def test_pages_of_workers_are_on_the_next_ports() -> None:
    assert MetricsPort("127.0.0.1", 9464).of_worker(2) == ("127.0.0.1", 9466)
    assert MetricsPort("127.0.0.1", 0).of_worker(2) == ("127.0.0.1", 0)


def test_a_port_that_is_taken_is_said(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with rap("serve", "shop:make", "--metrics-port", port, cwd=shop) as process:
            assert "cannot be served" in line_with(process, "address already in use")
            assert process.wait(PATIENCE) == 1


def test_without_the_extra_it_is_named(shop: Path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None; from rap.cli import main; main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, "serve", "shop:make", "--metrics-port", "0"],
        cwd=shop,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.returncode == 2
    assert "install rap[metrics]" in found.stderr
