"""`rap serve --metrics-port`: a page for one server, and one for all workers."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from rap.address import Address
from rap.client import Client
from tests.cli.programs import PATIENCE, ROOT, line_with, rap
from tests.observe.http import get
from tests.observe.prometheus import promtool
from tests.ports import free_address

MODULE = """
import asyncio
from collections.abc import AsyncIterator
from rap.server import Server
from rap.server.processor import PrometheusProcessor

def make() -> Server:
    server = Server("127.0.0.1:0", processor_list=[PrometheusProcessor()])

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    @server.register
    async def wait() -> AsyncIterator[int]:
        yield 0
        await asyncio.Event().wait()

    return server
"""
WORKER = re.compile(r"rap: worker (\d) \(pid (\d+)\) listening on (\S+)")
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
PAGE = re.compile(r"rap: metrics at http://(\S+)/metrics")


async def wait() -> AsyncIterator[int]:
    yield 0  # never run here


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(MODULE)
    return tmp_path


def page_of(process: subprocess.Popen[str]) -> Address:
    line = line_with(process, "rap: metrics at")
    found = PAGE.match(line)
    assert found is not None, line
    return Address.parse(found[1])


async def test_a_server_serves_its_metrics_until_it_stops(shop: Path) -> None:
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


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_server_with_a_wrong_registry_listens_but_is_not_ready(
    shop: Path, workers: str
) -> None:
    redis = f"redis://{free_address()}"
    (shop / "lost.py").write_text(
        "from rap import Server\n"
        f"server = Server('localhost:0', service='shop', registry={redis!r})\n"
    )
    options = ("--metrics-port", "0", "--workers", workers)
    with rap("serve", "lost:server", *options, cwd=shop) as process:
        page = await asyncio.to_thread(page_of, process)
        async with asyncio.timeout(PATIENCE):
            text = ""
            while "not registered yet" not in text:
                status, text = await get(page, "/readyz")
                assert status == 503
        assert f"Redis at {redis}: " in text
        assert (await get(page, "/healthz"))[0] == 200


class Workers(NamedTuple):
    """What keeps two workers, and the page of all; they and their address."""

    process: subprocess.Popen[str]
    page: Address
    pids: list[int]
    address: str


@asynccontextmanager
async def workers(shop: Path) -> AsyncIterator[Workers]:
    options = ("--workers", "2", "--metrics-port", "0")
    with rap("serve", "shop:make", *options, cwd=shop) as process:
        async with asyncio.timeout(PATIENCE):
            page = await asyncio.to_thread(page_of, process)
            found = [await asyncio.to_thread(worker_of, process) for _ in range(2)]
            yield Workers(process, page, [pid for pid, _ in found], found[0][1])


def worker_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the process and the address of the worker that listens next."""
    found = None
    while found is None:
        found = WORKER.match(line_with(process, "rap: worker"))
    return int(found[2]), found[3]


async def samples(page: Address, accept: str = "*/*") -> dict[str, float]:
    """Return every sample of the page, by name and labels."""
    status, body = await get(page, "/metrics", accept)
    assert status == 200
    parse = parse_open_metrics if "openmetrics" in accept else parse_text
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in parse(body)
        for sample in family.samples
    }


def of(name: str, **labels: str) -> str:
    return f"{name}{sorted(labels.items())}"


async def probe(page: Address, path: str) -> tuple[int, str]:
    """Return the answer of all workers; on a busy machine one may have been too slow for it."""
    while "did not answer" in (answer := await get(page, path))[1]:
        pass
    return answer


async def until_told(page: Address, path: str, answer: tuple[int, str]) -> None:
    while await get(page, path) != answer:  # noqa: ASYNC110  # over HTTP
        await asyncio.sleep(0.02)


async def test_one_page_has_the_metrics_of_all_workers(shop: Path) -> None:
    async with workers(shop) as (_, page, _, address):
        calls = 0
        counted: set[str] = set()
        while len(counted) < 2:  # the kernel chooses which worker gets a connection
            async with Client(address) as client:
                assert await client.raw_call("add", 1, 2) == 3
                calls += 1
            for accept in ("*/*", OPEN_METRICS):
                found = await samples(page, accept)
                handled = {
                    name: value for name, value in found.items() if "server_handled_total" in name
                }
                assert sum(handled.values()) == calls
            counted = set(handled)
        for number in ("0", "1"):
            assert found[of("rap_worker_up", worker=number)] == 1
            assert found[of("rap_worker_starts_total", worker=number)] == 1
            assert found[of("process_resident_memory_bytes", worker=number)] > 0
        assert await probe(page, "/healthz") == (200, "worker 0: alive\nworker 1: alive\n")
        ready = "".join(f"worker {number}: {address}: serving\n" for number in (0, 1))
        assert await probe(page, "/readyz") == (200, ready)
        if shutil.which("promtool") is not None:
            _, text = await get(page, "/metrics")
            assert promtool("check", "metrics", text=text) == ""


async def test_the_page_works_after_a_worker_was_killed(shop: Path) -> None:
    async with workers(shop) as (process, page, (first, _), _):
        os.kill(first, signal.SIGKILL)
        restarted = asyncio.create_task(asyncio.to_thread(worker_of, process))
        while (await samples(page))[of("rap_worker_starts_total", worker="0")] < 2:
            assert (await probe(page, "/readyz"))[0] == 200
            assert (await probe(page, "/healthz"))[0] == 200
        assert (await restarted)[0] != first
        while not (await samples(page))[of("rap_worker_up", worker="0")]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_worker_that_is_stuck_is_on_the_page(shop: Path) -> None:
    async with workers(shop) as (_, page, (_, second), address):
        os.kill(second, signal.SIGSTOP)
        try:
            stuck = "worker 1: did not answer in 0.8 s\n"
            await until_told(page, "/healthz", (503, f"worker 0: alive\n{stuck}"))
            await until_told(page, "/readyz", (200, f"worker 0: {address}: serving\n{stuck}"))
            found = await samples(page)
            assert found[of("rap_worker_up", worker="0")] == 1
            assert found[of("rap_worker_up", worker="1")] == 0
            assert of("process_resident_memory_bytes", worker="1") not in found
        finally:
            os.kill(second, signal.SIGCONT)
        await until_told(page, "/healthz", (200, "worker 0: alive\nworker 1: alive\n"))


async def test_the_page_of_workers_is_not_ready_while_they_drain(shop: Path) -> None:
    async with workers(shop) as (process, page, _, address):
        async with Client(address) as client:
            items = client.iterator_call(wait)
            assert await anext(items) == 0
            process.send_signal(signal.SIGTERM)
            await until_told(page, "/readyz", (503, "the workers are starting or stopping\n"))
            assert (await probe(page, "/healthz"))[0] == 200
            await items.aclose()
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0


def test_a_port_in_use_is_reported_before_workers_start(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--workers", "2", "--metrics-port", port)
        with rap("serve", "shop:make", *options, cwd=shop) as process:
            assert "cannot be kept" in line_with(process, "Address already in use")
            assert process.wait(PATIENCE) == 1


def test_a_port_in_use_is_reported(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with rap("serve", "shop:make", "--metrics-port", port, cwd=shop) as process:
            assert "cannot be served" in line_with(process, "Address already in use")
            assert process.wait(PATIENCE) == 1


def test_a_missing_extra_is_named(shop: Path) -> None:
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
