"""Prometheus and promtool as tests run them; both may be missing."""

import asyncio
import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "RULES",
    "Prometheus",
    "needs_prometheus",
    "needs_promtool",
    "prometheus",
    "promtool",
    "until",
]

RULES = Path(__file__).parents[2] / "prometheus" / "rules.yml"
PATIENCE = 30.0

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


class Prometheus:
    """A Prometheus that runs.

    Args:
        address: Where it listens.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._api = f"http://{address}/api/v1"

    def ask(self, what: str, **query: str) -> Any:
        """Return the data of an answer; nothing while there is none."""
        url = f"{self._api}/{what}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def query(self, expression: str) -> Any:
        """Return the series that an expression gives now."""
        data = self.ask("query", query=expression)
        return data and data["result"]


@contextmanager
def prometheus(
    targets: Mapping[str, Sequence[object]], folder: Path, *, interval: str = "200ms"
) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes pages and has our rules.

    Args:
        targets: Addresses of the pages of each job.
        folder: Where it keeps its files.
        interval: Between two scrapes of a page, and two evaluations of the rules.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [*map(str, pages)]}]}
            for job, pages in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield Prometheus(f"127.0.0.1:{port}")
        finally:
            process.kill()
            process.wait()


def promtool(*args: str, text: str = "") -> str:
    """Run promtool; return what it has to say, nothing if all is well."""
    ran = subprocess.run(
        ["promtool", *args], input=text, capture_output=True, text=True, check=False
    )
    return ran.stdout + ran.stderr if ran.returncode else ""


async def until(what: Callable[[], Any]) -> Any:
    """Return what a question gives as soon as that is something."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await asyncio.to_thread(what)):  # noqa: ASYNC110  # over HTTP
            await asyncio.sleep(0.05)
    return found
