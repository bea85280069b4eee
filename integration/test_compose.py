"""The file for Compose: all of it is healthy soon, it scales, and instances are replaced unnoticed.

Nothing here has a counterpart in processes: skipped where there is no Docker.
"""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from integration.choice import IMAGE, choose, has_image
from integration.stage import PATIENCE, ROOT
from tests.ports import free_port
from tests.redis_server import wait_until

PROMETHEUS_IMAGE = "prom/prometheus:v3.13.0"
HEALTHY_WITHIN = 60.0  # seconds from `up` on, with the images at hand
SERVICES = {"redis", "server", "orders", "load", "gateway", "prometheus"}
JOBS = {"calc": 3, "orders": 1, "gateway": 1, "load": 1}


class Project:
    """One project of Compose under a name of its own, on free ports."""

    def __init__(self, command: list[str]) -> None:
        self.gateway, self.prometheus = free_port(), free_port()
        self._command = [*command, "-p", f"rap-test-{os.getpid()}"]
        self.environ = {
            **os.environ,
            "COMPOSE": " ".join(self._command),
            "TAG": IMAGE.rpartition(":")[2],
            "GATEWAY_PORT": str(self.gateway),
            "PROMETHEUS_PORT": str(self.prometheus),
        }

    def run(self, *arguments: str) -> str:
        return self.call(*self._command, *arguments)

    def call(self, *command: str) -> str:
        ran = subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{' '.join(command)}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def states(self, *services: str) -> list[tuple[str, str]]:
        """Return service and health of every container."""
        ids = self.run("ps", "-q", *services).split()
        form = '{{index .Config.Labels "com.docker.compose.service"}} {{.State.Health.Status}}'
        lines = self.call("docker", "inspect", "--format", form, *ids).splitlines()
        return [(name, health) for name, _, health in (line.partition(" ") for line in lines)]

    def healthy(self) -> bool:
        states = self.states()
        return {name for name, _ in states} == SERVICES and {it for _, it in states} == {"healthy"}

    def targets(self) -> list[str]:
        """Return the job of each target of Prometheus that is up."""
        url = f"http://127.0.0.1:{self.prometheus}/api/v1/targets?state=active"
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["activeTargets"]
        return [it["labels"]["job"] for it in found if it["health"] == "up"]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Ask the gateway."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.gateway}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def failures(self) -> int:
        """Return how many calls under load have failed, once there are some more."""
        before = self.run("logs", "load").count("calls/s")
        wait_until(lambda: self.run("logs", "load").count("calls/s") > before + 1, "load", PATIENCE)
        return int(re.findall(r"failed: (\d+)", self.run("logs", "load"))[-1])


def compose() -> list[str] | None:
    """Return how Compose is called here."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return None if asked.returncode else ["docker", "compose"]


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    chosen = choose()
    if chosen.image is None:
        pytest.skip(chosen.reason)
    command = compose()
    if command is None:
        pytest.skip("Compose is not installed")
    if not has_image(PROMETHEUS_IMAGE):
        pytest.skip(f"there is no image {PROMETHEUS_IMAGE}")
    made = Project(command)
    try:
        started = time.monotonic()
        made.run("up", "-d")
        wait_until(made.healthy, "health of all", HEALTHY_WITHIN)
        took = time.monotonic() - started
        assert took < HEALTHY_WITHIN
        print(f"healthy {took:.1f} s after `up`")
        yield made
    finally:
        made.run("down", "-v", "--timeout", "5")


def test_every_target_of_prometheus_is_up_and_the_gateway_answers(project: Project) -> None:
    wait_until(
        lambda: all(project.targets().count(job) >= number for job, number in JOBS.items()),
        "targets",
        PATIENCE,
    )
    assert project.post("/api/call/default/add", {"a": 1, "b": 2}) == {"code": 0, "data": 3}
    assert project.post("/orders/call/default/total", {"prices": [1, 2]}) == {"code": 0, "data": 3}


def test_every_container_has_limits_and_writes_only_where_it_has_to(project: Project) -> None:
    for each in json.loads(project.call("docker", "inspect", *project.run("ps", "-q").split())):
        host = each["HostConfig"]
        assert host["Memory"] > 0, each["Name"]
        assert host["NanoCpus"] > 0, each["Name"]
        assert host["PidsLimit"] > 0, each["Name"]
        assert host["ReadonlyRootfs"], each["Name"]
        assert host["CapDrop"] == ["ALL"], each["Name"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"], each["Name"]
        published = [it["HostIp"] for ports in host["PortBindings"].values() for it in ports]
        assert set(published) <= {"127.0.0.1"}, each["Name"]


def test_no_call_fails_when_there_are_more_instances_and_each_is_replaced(
    project: Project,
) -> None:
    old = set(project.run("ps", "-q", "server").split())
    project.run("up", "-d", "--scale", "server=5")
    wait_until(
        lambda: project.states("server") == [("server", "healthy")] * 5, "five servers", PATIENCE
    )
    said = project.call("integration/rolling-update", "server")
    assert len(re.findall("is replaced by .* ended with 0", said)) == 5
    assert old.isdisjoint(project.run("ps", "-q", "server").split())
    assert project.states("server") == [("server", "healthy")] * 5
    assert project.failures() == 0
