"""What the image is made of; skipped where there is no Docker."""

import json
import subprocess
from typing import Any

import pytest

from integration.choice import choose

# Whatever its user can write: nothing of the image's own, only where everybody can.
WRITABLE = r"find / -xdev -writable ! -type l ! -path '/proc/*' ! -path '/dev/*' 2>/dev/null; true"
TOOLS = "gcc cc c++ make ld git curl wget"


def docker(*arguments: str) -> str:
    ran = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def image() -> str:
    chosen = choose()
    if chosen.image is None:
        pytest.skip(chosen.reason)
    return chosen.image


@pytest.fixture(scope="module")
def config(image: str) -> Any:
    return json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image))


def shell(image: str, script: str) -> list[str]:
    """Return what a script prints, line by line, in a container of the image."""
    hard = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
    return docker("run", "--rm", *hard, "--entrypoint=sh", image, "-c", script).splitlines()


def test_it_drains_at_sigterm_and_says_how_it_is(config: Any) -> None:
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "integration/app/probe.py"]
    assert config["Cmd"][:2] == ["rap", "serve"]  # no shell between the engine and the server


def test_its_user_is_nobody_special_and_can_write_nothing(image: str, config: Any) -> None:
    assert config["User"] == "10001:10001"
    assert shell(image, "id -u; id -G") == ["10001", "10001"]
    assert set(shell(image, WRITABLE)) <= {"/tmp", "/var/tmp", "/run/lock"}


def test_it_has_no_tools_to_build_with_and_no_sources(image: str) -> None:
    assert shell(image, f"for tool in {TOOLS}; do command -v $tool; done; true") == []
    pip = "python -c 'import pip' 2>&1 || true"
    assert "ModuleNotFoundError" in shell(image, pip)[-1]  # of the environment that runs
    assert shell(image, "ls /src 2>&1 || true")[0].startswith("ls: cannot access")
    assert shell(image, "ls -A") == ["integration"]


def test_rap_is_installed_with_its_extras(image: str) -> None:
    modules = "redis, uvloop, Crypto, prometheus_client, uvicorn, opentelemetry.sdk"
    assert shell(image, f"python -c 'import rap, {modules}'") == []
    gone = shell(image, "python -c 'import jaeger_client' 2>&1 || true")
    assert "ModuleNotFoundError" in gone[-1]  # it is not maintained any more
