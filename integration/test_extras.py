"""The wheel, installed with one extra at a time by the oldest pip that a supported Python has."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = "23.2.1"  # of Python 3.11.7 and 3.12.1; it compares the names of extras letter by letter

# What works after the extra is installed, and not before.
WORKS = {
    "redis": "import rap.registry.redis",
    "crypto": "from rap.server.processor import CryptoProcessor\nCryptoProcessor({'id': 'k' * 16})",
    "crypto-fast": "import rap.processor.encryption.openssl",
    "metrics": "from rap.observe import serve_metrics",
    "otel": "from rap.server.processor import OpenTelemetryProcessor",
    "opentracing": "from rap.server.processor import TracingProcessor\nimport jaeger_client",
    "gateway": "from rap.gateway import create_app\nimport uvicorn, websockets",
    "api-gateway": "from rap.api_gateway import create_app\nimport uvicorn, websockets",
    "pydantic": "import pydantic",
    "fast": "import uvloop",
    "cli": "import rap.cli.app",
    "testing": "import rap.testing.plugin, pytest_asyncio",
}
NOT_IN_ALL = {"opentracing", "crypto-fast", "testing"}


def run(*command: str | Path) -> str:
    """Run a command and return its output; a failed one fails the test."""
    ran = subprocess.run(
        command, cwd=ROOT.anchor, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def new_environment(at: Path) -> Path:
    """Create a virtual environment with the old pip and return its Python."""
    run(sys.executable, "-m", "venv", at)
    python = at / "bin" / "python"
    upgrade = [str(python), "-m", "pip", "install", "--quiet", f"pip=={PIP}"]
    ran = subprocess.run(upgrade, capture_output=True, text=True)
    if ran.returncode:
        pytest.skip(f"pip {PIP} cannot be installed; no network? {ran.stderr[-300:]}")
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    python = new_environment(folder / "environment")
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("rap-*.whl")
    return built


def test_every_extra_of_users_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {name.replace("_", "-") for name in project["optional-dependencies"]}
    assert WORKS.keys() == names - {"all", "dev"}


@pytest.mark.parametrize("extra", sorted(WORKS))
def test_an_old_pip_installs_the_extra_alone(extra: str, wheel: Path, tmp_path: Path) -> None:
    python = new_environment(tmp_path / "environment")
    run(python, "-m", "pip", "install", "--quiet", wheel)
    before = subprocess.run([python, "-c", WORKS[extra]], capture_output=True, cwd=tmp_path)
    assert before.returncode != 0
    output = run(python, "-m", "pip", "install", f"{wheel}[{extra}]")
    assert "does not provide the extra" not in output
    run(python, "-W", "ignore", "-c", WORKS[extra])


def test_all_installs_every_extra_that_a_service_uses(wheel: Path, tmp_path: Path) -> None:
    python = new_environment(tmp_path / "environment")
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[all]")
    for extra in WORKS.keys() - NOT_IN_ALL:
        run(python, "-W", "ignore", "-c", WORKS[extra])
    assert "jaeger-client" not in run(python, "-m", "pip", "list")
