"""The command line without its extra."""

import subprocess
import sys

import pytest

from tests.cli.programs import PATIENCE, ROOT


@pytest.mark.parametrize("package", ["click", "rich"])
def test_importing_it_without_the_extra_names_the_extra(package: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; import rap.cli"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.returncode == 1
    assert f"ImportError: rap.cli needs {package}: install rap[cli]" in found.stderr


def test_it_runs_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "rap.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "serve" in found.stdout
    assert "demo-replica" not in found.stdout
