"""The command line without its extra."""

import subprocess
import sys

import pytest

from tests.cli.programs import PATIENCE, ROOT


@pytest.mark.parametrize(("package", "args"), [("click", []), ("rich", ["demo"])])
def test_running_it_without_the_extra_names_the_extra_and_no_more(
    package: str, args: list[str]
) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = {args!r};"
        "from rap.cli import main; main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr == f"the command rap needs {package}: install rap[cli]\n"


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
