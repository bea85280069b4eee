"""Every query of the dashboard has an answer in a Prometheus that scrapes the example."""

import asyncio
from pathlib import Path

import pytest

from integration.dashboard import expressions
from integration.stage import CALC, LOAD, METRICS_PORT, ORDERS, Stage
from tests.observe.prometheus import needs_prometheus, prometheus, until

SECRET = "a key of 16 byte"
PATIENCE = 60.0


@needs_prometheus
async def test_every_query_of_the_dashboard_returns_data(stage: Stage, tmp_path: Path) -> None:
    host = stage.listen.partition(":")[0]
    port = METRICS_PORT if host == "0.0.0.0" else 0  # in containers, and on this machine
    page = ("--metrics-host", host, "--metrics-port", str(port))
    environ = {
        "APP_LISTEN": stage.listen,
        "APP_SECRET": SECRET,
        "APP_STATE": stage.redis_url,
        "APP_METRICS": f"{host}:{port}",
    }
    programs: dict[str, list[tuple[str, ...]]] = {
        "calc": [(*CALC, *page), (*CALC, *page)],
        "orders": [(*ORDERS, *page, "--workers", "2")],
        "load": [(*LOAD, "--orders", "--interval", "1")],
    }
    said = {"calc": "rap: listening on", "orders": "rap: worker 1", "load": "calls/s"}
    targets: dict[str, list[str]] = {}
    for job, commands in programs.items():
        for number, command in enumerate(commands):
            program = await asyncio.to_thread(
                stage.run, f"{job}{number}", command, tmp_path, **environ
            )
            await asyncio.to_thread(program.wait_for, said[job])
            targets.setdefault(job, []).append(stage.address_of(program, METRICS_PORT))
    with prometheus(targets, tmp_path) as running:
        workers = 'count by (worker) (rap_server_handled_total{job="orders"})'
        await until(lambda: len(running.query(workers) or ()) == 2)
        left = list(expressions(rate_interval="5s"))
        try:
            async with asyncio.timeout(PATIENCE):
                while left:
                    await until(lambda: running.query(left[0]))
                    left.pop(0)
        except TimeoutError:
            pytest.fail(f"no data: {left[0]}")
