"""What the how-to pages show besides Python: commands, and files of other programs."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rap.server.config import ServerConfig
from tests.test_readme import ROOT, Block, Example, blocks_of, run

PAGES = ROOT / "docs" / "how-to"


def other_block(page: str, language: str) -> str:
    """Return the first block of a page in a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", (PAGES / page).read_text(), re.M | re.S)
    assert found is not None
    return found[1]


def named_blocks(page: str) -> dict[str, Block]:
    blocks = blocks_of((PAGES / page).read_text())
    return {block.file_name: block for block in blocks if block.file_name}


def test_the_unit_for_systemd_gives_the_drain_enough_time() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(other_block("systemd.md", "ini"))
    defaults = ServerConfig()
    drain_delay = 1.0  # the default with a registry
    assert unit.getint("Service", "TimeoutStopSec") > drain_delay + defaults.close_timeout


def test_the_unit_for_systemd_is_valid(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "rap"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "stock.service"
    text = other_block("systemd.md", "ini").replace("/opt/stock/venv/bin/rap", str(program))
    unit.write_text(text.replace("/opt/stock", str(tmp_path)))
    found = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


SERVE = "\n\nimport asyncio\n\nasyncio.run(server.serve_forever())\n"


@pytest.mark.parametrize("kind", ["tls", "mtls"])
def test_the_programs_of_tls_run_with_the_certificates_that_the_commands_make(
    kind: str, tmp_path: Path
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    commands = other_block("tls.md", "bash")
    subprocess.run(["sh", "-e", "-c", commands], cwd=tmp_path, check=True, capture_output=True)
    blocks = named_blocks("tls.md")
    server = blocks[f"{kind}_server.py"]
    server = server._replace(code=server.code + SERVE)
    run(Example(blocks[f"{kind}_client.py"], server), tmp_path)
