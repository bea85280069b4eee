"""What README and docs tell to do by hand, step by step, works as it is told."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from tests.cli.programs import PATIENCE, interrupt, line_with, rap
from tests.cli.shop import invoke
from tests.loopback import serving
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GET_STARTED = (ROOT / "docs/get-started.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly")
NAME = re.compile(r"# ([\w.]+\.(?:py|ini))\n")
BLOCK = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: str, title: str) -> list[tuple[str, str]]:
    """Return kind and text of each block of a section."""
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return BLOCK.findall(section)


def words_of(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def save_files(page: str, folder: Path, changes: dict[str, str]) -> dict[str, str]:
    """Save the files that a page shows, with parts replaced by others; return their texts."""
    texts = {name: text for _, text in BLOCK.findall(page) for name in NAME.findall(text)[:1]}
    for name, text in texts.items():
        for old, new in changes.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return texts


async def python(*args: str, folder: Path) -> str:
    """Run a program to its end; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def drained(process: subprocess.Popen[str]) -> Thread:
    """Read what a process prints from now on, so that it never waits for a reader."""
    assert process.stdout is not None
    thread = Thread(target=process.stdout.read)
    thread.start()
    return thread


def test_readme_leads_to_every_page() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages - set(re.findall(r"\]\(([^)#]+)", README)) == set()


async def test_the_quick_start_is_an_example_too(tmp_path: Path) -> None:
    (_, program), *_ = blocks_of(README, "Quick start")
    assert (ROOT / "examples/quickstart.py").read_text() == program
    save_files(README, tmp_path, {"9000": str(free_port())})
    assert await python("quickstart.py", folder=tmp_path) == "3\n"


async def test_three_replicas_are_served_called_and_looked_at(tmp_path: Path) -> None:
    (_, _), (_, serve), (_, _), (_, look) = blocks_of(README, "Replicas")
    save_files(README, tmp_path, {})
    visit, *lines = look.replace("$PWD", str(tmp_path)).splitlines()
    with rap(*words_of(serve)[1:], cwd=tmp_path) as replicas:
        for number in range(3):
            line_with(replicas, f"rap: worker {number} (pid")
        counts = await python(*words_of(visit)[1:], folder=tmp_path)
        said = {}
        for line in lines:
            _, name, *rest = words_of(line)
            brief = {"bench": ["-n", "9"], "top": ["--once"]}.get(name, [])
            result = await invoke(None, name, *rest, *brief)
            assert (result.stderr, result.exit_code) == ("", 0)
            said[name] = result.stdout
        interrupt(replicas)
        assert "rap: stopped" in replicas.communicate(timeout=PATIENCE)[0]
    assert sum(map(int, re.findall(r": (\d+)", counts))) == 300
    assert list(said) == ["ls", "call", "bench", "top"]
    assert said["ls"].count(" up ") == said["top"].count(" up ") == 3
    assert said["call"].strip().isdigit()
    assert "failed     0" in said["bench"]


async def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    save_files(README, tmp_path, {})
    said = await python(*PYTEST, "test_shop.py", folder=tmp_path)
    assert "1 passed" in said
    assert "Warning" not in said


async def test_the_first_ten_minutes_go_as_they_are_told(tmp_path: Path) -> None:
    changes = {
        "9000": str(free_port()),
        "seconds: int = 30": "seconds: int = 3",
    }
    save_files(GET_STARTED, tmp_path, changes)
    with rap("serve", "server:server", cwd=tmp_path) as server:
        line_with(server, "rap: listening")
        reader = drained(server)
        said = await python("client.py", folder=tmp_path)
        interrupt(server)
        reader.join(PATIENCE)
    assert re.fullmatch(r"Quote\(amount=10.8, process=\d+\)\nno rate for XXX\n", said)

    (_, one_line), (_, serve), *_ = blocks_of(GET_STARTED, "Run replicas")
    text = re.sub(r"^server = .*\n", one_line, (tmp_path / "server.py").read_text(), flags=re.M)
    (tmp_path / "server.py").write_text(text)
    with rap(*words_of(serve)[1:], cwd=tmp_path) as replicas:
        pids = [
            int(re.findall(r"pid (\d+)", line_with(replicas, f"rap: worker {number} (pid"))[0])
            for number in range(3)
        ]
        reader = drained(replicas)
        load = asyncio.create_task(python("load.py", folder=tmp_path))
        await asyncio.sleep(0)
        os.kill(pids[0], signal.SIGKILL)
        said = await load
        interrupt(replicas)
        reader.join(PATIENCE)
    assert said.count("failed: 0") == 3
    said = await python(*PYTEST, "test_rates.py", folder=tmp_path)
    assert "2 passed" in said
    assert "Warning" not in said


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
