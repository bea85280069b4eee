"""What README and docs tell to do by hand, step by step, works as it is told."""

import asyncio
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.cli.programs import PATIENCE, interrupt, line_with, rap
from tests.cli.shop import invoke
from tests.loopback import serving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
BLOCK = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: str, title: str) -> list[tuple[str, str]]:
    """Return kind and text of each block of a section."""
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return BLOCK.findall(section)


def words_of(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def test_readme_leads_to_every_page() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages - set(re.findall(r"^- \[[^]]+\]\(([^)]+)\)", README, re.MULTILINE)) == set()


async def test_three_replicas_are_served_and_looked_at(tmp_path: Path) -> None:
    (_, program), (_, serve), (_, look) = blocks_of(
        README, "Replicas and a dashboard in five minutes"
    )
    (tmp_path / "shop.py").write_text(program.replace("/var/tmp/shop", f"{tmp_path}/shop"))
    with rap(*words_of(serve)[1:], cwd=tmp_path) as replicas:
        for number in range(3):
            line_with(replicas, f"rap: worker {number} (pid")
        said = {}
        for line in look.replace("/var/tmp/shop", f"{tmp_path}/shop").splitlines():
            _, name, *rest = words_of(line)
            brief = {"bench": ["-n", "9"], "top": ["--once"]}.get(name, [])
            result = await invoke(None, name, *rest, *brief)
            assert (result.stderr, result.exit_code) == ("", 0)
            said[name] = result.stdout
        interrupt(replicas)
        assert "rap: stopped" in replicas.communicate(timeout=PATIENCE)[0]
    assert list(said) == ["ls", "call", "bench", "top"]
    assert said["ls"].count(" up ") == said["top"].count(" up ") == 3
    assert said["call"].strip().isdigit()
    assert "failed     0" in said["bench"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl in PATH")
async def test_an_authority_for_a_trial_is_made_and_used(tmp_path: Path) -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    text = next(text for kind, text in blocks_of(OPERATIONS, "TLS") if kind == "bash")
    make, _, call = text.partition("\nrap ")
    shell = await asyncio.create_subprocess_exec("bash", "-e", "-c", make, cwd=tmp_path)
    assert await shell.wait() == 0
    files = {"ssl_crt_path": "server.pem", "ssl_key_path": "server.key"}
    paths = {name: str(tmp_path / path) for name, path in files.items()}
    words = [str(tmp_path / each) if each.endswith(".pem") else each for each in words_of(call)]
    for host in ("localhost", "127.0.0.1"):
        async with serving(add, host=f"{host}:0", **paths) as server:
            words[words.index("--host") + 1] = f"{host}:{server.addresses[0].port}"
            result = await invoke(None, *words)
        assert (result.stdout, result.stderr) == ("3\n", "")
