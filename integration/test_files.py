"""The files to deploy with agree with the library, the example and the page about them."""

import re
import shutil
import subprocess

import pytest

from integration.stage import ROOT
from rap.server.config import ServerConfig

DRAIN_DELAY = 1  # seconds, of a server with a registry
CLOSE_TIMEOUT = ServerConfig().close_timeout
VARIABLE = re.compile(r"\bAPP_[A-Z]+\b")


def number_in(path: str, pattern: str) -> int:
    found = re.search(pattern, (ROOT / path).read_text())
    assert found is not None, f"{path} has no {pattern}"
    return int(found[1])


def test_kubernetes_waits_for_the_end_of_a_drain() -> None:
    grace = number_in("k8s/base/server.yaml", r"terminationGracePeriodSeconds: (\d+)")
    pause = number_in("k8s/base/server.yaml", r'\[sleep, "(\d+)"\]')
    assert grace > pause + DRAIN_DELAY + CLOSE_TIMEOUT


def test_kubernetes_waits_for_requests_of_the_gateway() -> None:
    grace = number_in("k8s/base/gateway.yaml", r"terminationGracePeriodSeconds: (\d+)")
    pause = number_in("k8s/base/gateway.yaml", r'\[sleep, "(\d+)"\]')
    assert grace > pause + number_in("k8s/base/gateway.yaml", r"timeout-graceful-shutdown=(\d+)")


def test_compose_waits_for_the_end_of_a_drain() -> None:
    grace = number_in("docker-compose.yml", r"stop_grace_period: (\d+)s")
    assert grace > DRAIN_DELAY + CLOSE_TIMEOUT


def test_the_page_lists_what_the_example_reads() -> None:
    read = set(VARIABLE.findall((ROOT / "integration/app/settings.py").read_text()))
    page = (ROOT / "docs/deployment.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `APP_")]
    assert (
        set(VARIABLE.findall("".join(row.rpartition("|")[0].split("|")[1] for row in rows))) == read
    )


@pytest.mark.parametrize(
    "path",
    [
        "docker-compose.yml",
        "k8s/base/server.yaml",
        "k8s/base/gateway.yaml",
        "k8s/components/dns/kustomization.yaml",
    ],
)
def test_no_file_sets_what_the_example_does_not_read(path: str) -> None:
    read = set(VARIABLE.findall((ROOT / "integration/app/settings.py").read_text()))
    assert set(VARIABLE.findall((ROOT / path).read_text())) <= read


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_overlays_pass_what_can_be_checked_without_a_cluster() -> None:
    checked = subprocess.run(
        [ROOT / "k8s/check"], capture_output=True, text=True, check=False, timeout=100
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    overlays = list((ROOT / "k8s/overlays").iterdir())
    components = list((ROOT / "k8s/components").iterdir())
    built = len(overlays) + len(components) - 1  # dev has Redis
    assert checked.stdout.count("builds: ") == built + 1  # and the shop of the examples
    assert "examples/shop/kubernetes.yaml" in checked.stdout
