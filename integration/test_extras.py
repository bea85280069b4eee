"""What is built, installed with one extra at a time, by every Python that is found.

An environment is created without pip, so that it is empty; the pip of another one installs into it.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLD_PIP = "23.2.1"  # of Python 3.11.7 and 3.12.1; it compares the names of extras letter by letter
NEW_PIP = "newest"
VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
THIS = f"3.{sys.version_info.minor}"

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


@cache
def pythons() -> dict[str, str]:
    """Return the Pythons that can be found, by version: in `PATH` and in pyenv."""
    found: dict[str, str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        candidates = [shutil.which(f"python{version}") or "", sys.executable]
        for pattern in (f"{version}.*", f"{version}-*"):
            candidates += map(str, sorted(pyenv.glob(f"{pattern}/bin/python"), reverse=True))
        usable = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        for each in filter(None, candidates):
            try:  # a shim of pyenv may exist but fail
                ran = subprocess.run([each, "-c", usable], capture_output=True, text=True)
            except OSError:
                continue
            if ran.returncode == 0 and ran.stdout.strip() == version:
                found[version] = each
                break
    return found


def run(*command: str | Path) -> str:
    """Run a command and return its output; a failed one fails the test."""
    ran = subprocess.run(
        command, cwd=ROOT.anchor, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


class Pips:
    """Environments with a version of pip each, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def install(self, pip: str, into: Path, *what: str | Path) -> str:
        """Install something into an environment that has no pip; return what pip said."""
        command = ("-m", "pip", "--python", into, "install", "--disable-pip-version-check")
        return run(self.python(pip), *command, *what)

    def python(self, pip: str) -> Path:
        """Return the Python of the environment with this version of pip."""
        if pip not in self._made:
            at = self._folder / pip
            run(sys.executable, "-m", "venv", at)
            wanted = "pip" if pip == NEW_PIP else f"pip=={pip}"
            upgrade = [
                str(at / "bin/python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--upgrade",
                wanted,
            ]
            ran = subprocess.run(upgrade, capture_output=True, text=True)
            if ran.returncode:
                pytest.skip(f"{wanted} cannot be installed; no network? {ran.stderr[-300:]}")
            self._made[pip] = at / "bin" / "python"
        return self._made[pip]


@pytest.fixture(scope="module")
def pips(tmp_path_factory: pytest.TempPathFactory) -> Pips:
    return Pips(tmp_path_factory.mktemp("pips"))


@pytest.fixture(scope="module")
def built(pips: Pips, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel and the sdist as `make dist` does."""
    folder = tmp_path_factory.mktemp("dist")
    python = pips.python(NEW_PIP)
    run(python, "-m", "pip", "install", "--quiet", "build>=1.2")
    run(python, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("rap-*.whl"), folder.glob("rap-*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def empty_environment(version: str, at: Path) -> Path:
    """Create an environment of a Python that has nothing, not even pip; return its Python."""
    python = pythons().get(version)
    if python is None:
        pytest.skip(f"Python {version} is not found")
    run(python, "-m", "venv", "--without-pip", at)
    return at / "bin" / "python"


def test_every_extra_of_users_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {name.replace("_", "-") for name in project["optional-dependencies"]}
    assert WORKS.keys() == names - {"all", "dev"}


def check_extra(pips: Pips, pip: str, python: Path, extra: str, package: Path) -> None:
    output = pips.install(pip, python, f"{package}[{extra}]")
    assert "does not provide the extra" not in output
    run(python, "-W", "ignore", "-c", WORKS[extra])


@pytest.mark.parametrize("version", VERSIONS)
def test_without_an_extra_nothing_works_that_needs_one(
    version: str, built: dict[str, Path], pips: Pips, tmp_path: Path
) -> None:
    python = empty_environment(version, tmp_path / "environment")
    pips.install(NEW_PIP, python, "--quiet", built["wheel"])
    run(python, "-c", "import rap; rap.Client, rap.Server")
    for extra, program in WORKS.items():
        ran = subprocess.run([python, "-c", program], capture_output=True, cwd=tmp_path)
        assert ran.returncode != 0, extra


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("extra", sorted(WORKS))
def test_the_newest_pip_installs_the_extra_alone(
    extra: str, version: str, built: dict[str, Path], pips: Pips, tmp_path: Path
) -> None:
    python = empty_environment(version, tmp_path / "environment")
    check_extra(pips, NEW_PIP, python, extra, built["wheel"])


@pytest.mark.parametrize("extra", sorted(WORKS))
def test_an_old_pip_installs_the_extra_alone(
    extra: str, built: dict[str, Path], pips: Pips, tmp_path: Path
) -> None:
    python = empty_environment(THIS, tmp_path / "environment")
    check_extra(pips, OLD_PIP, python, extra, built["wheel"])


@pytest.mark.parametrize("pip", [OLD_PIP, NEW_PIP])
def test_the_sdist_installs_like_the_wheel(
    pip: str, built: dict[str, Path], pips: Pips, tmp_path: Path
) -> None:
    python = empty_environment(THIS, tmp_path / "environment")
    check_extra(pips, pip, python, "cli", built["sdist"])
    assert run(python.parent / "rap", "--version").startswith("rap 1.")


@pytest.mark.parametrize("version", VERSIONS)
def test_all_installs_every_extra_that_a_service_uses(
    version: str, built: dict[str, Path], pips: Pips, tmp_path: Path
) -> None:
    python = empty_environment(version, tmp_path / "environment")
    pips.install(NEW_PIP, python, "--quiet", f"{built['wheel']}[all]")
    for extra in WORKS.keys() - NOT_IN_ALL:
        run(python, "-W", "ignore", "-c", WORKS[extra])
    listed = run(pips.python(NEW_PIP), "-m", "pip", "--python", python, "list")
    assert "jaeger-client" not in listed
