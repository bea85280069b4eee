"""What docs/cli.md shows of `rap` is what it prints.

A block fenced as ``console`` is a session: lines after ``$`` are run, what follows is their output.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.programs import PATIENCE, ROOT
from tests.ports import free_port
from tests.test_readme import blocks_of, running

PAGE = (ROOT / "docs" / "cli.md").read_text()
SESSION = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = [step for session in SESSION.findall(PAGE) for step in session.split("$ ")[1:]]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run the server of the page; yield an environment in which `rap` finds it."""
    folder = tmp_path_factory.mktemp("page")
    port = free_port()
    server = next(block for block in blocks_of(PAGE) if block.role == "server")
    (folder / "shop.py").write_text(re.sub(r"\b9000\b", str(port), server.code))
    program = folder / "rap"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -W error -m rap.cli "$@"\n')
    program.chmod(0o755)
    with running(server, port, folder):
        yield {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FOLDER": str(folder),
            "PORT": str(port),
        }


@pytest.mark.parametrize("step", STEPS)
def test_a_console_session_of_the_page_is_correct(step: str, shell: dict[str, str]) -> None:
    command, _, output = step.partition("\n")
    name = command.partition("rap ")[2].split()[0].upper()
    found = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**shell, f"RAP_{name}_HOST": f"localhost:{shell['PORT']}"},
        cwd=Path(shell["FOLDER"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.stdout == output
