"""`rap demo` as a process: it succeeds, and leaves nothing behind however it ends."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from rap.cli.app import rap as rap_group
from rap.cli.demo.fleet import Fleet
from rap.cli.redis_server import find_redis_server
from tests.cli.programs import (
    PATIENCE,
    children_of,
    interrupt,
    is_running,
    line_with,
    rap,
    wait_until,
)

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"
)


def check_output(output: str) -> None:
    """Assert that the whole story was told, and that it ended well."""
    assert re.search(r"[\d,]+ idempotent calls in [\d.]+ s, 0 failed", output)
    for event in ("SIGKILL of a", "d has registered", "SIGTERM for b", "comes back empty"):
        assert event in output
    pinned = r"session made \d+ calls and its channel carried \d+ messages, all on \w\n"
    assert re.search(pinned, output)


def test_a_short_run_with_files_ends_without_a_failed_call() -> None:
    result = CliRunner().invoke(rap_group, ["demo", "--seconds", "4", "--redis", "no"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("registry: files")
    check_output(result.output)


@pytest.mark.skipif(find_redis_server() is None, reason="needs a redis-server")
def test_a_short_run_with_redis_ends_without_a_failed_call(tmp_path: Path) -> None:
    with rap("demo", "--seconds", "4", cwd=tmp_path) as process:
        output = process.communicate(timeout=2 * PATIENCE)[0]
    assert process.returncode == 0, output
    assert output.startswith("registry: Redis")
    check_output(output)


@needs_proc
@pytest.mark.parametrize("end", ["ctrl-c", "SIGTERM", "SIGKILL"])
def test_ending_it_early_leaves_no_process_behind(tmp_path: Path, end: str) -> None:
    with rap("demo", "--seconds", "60", cwd=tmp_path) as process:
        line_with(process, "calls/s")
        children = children_of(process.pid)
        assert len(children) >= 3
        if end == "ctrl-c":
            interrupt(process)
        else:
            process.send_signal(signal.Signals[end])
        status = process.wait(PATIENCE)
        assert status == (-signal.SIGKILL if end == "SIGKILL" else 130)
        wait_until(lambda: not any(map(is_running, children)), "the replicas to end")


@pytest.mark.skipif(shutil.which("script") is None, reason="needs script(1) for a terminal")
def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    program = f"rap_demo() {{ {python_command()} demo --seconds 60 --redis no; }}; rap_demo"
    with subprocess.Popen(
        ["script", "-qec", program, "/dev/null"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40", "PATH": "/usr/bin:/bin"},
    ) as process:
        try:
            assert "in flight" in line_with(process, "by weight")
            assert "50.0%" in line_with(process, " c       2")
        finally:
            process.terminate()
            process.communicate()


def python_command() -> str:
    import sys

    return f"{sys.executable} -m rap.cli"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--redis", "maybe"], "must be auto, no or the URL of a Redis, got 'maybe'"),
        (["--redis", "http://localhost"], "got 'http://localhost'"),
        (["--seconds", "1"], "4<=x<=3600"),
        (["--loop", "trio"], "'trio'"),
    ],
)
def test_a_bad_option_is_named(options: list[str], problem: str) -> None:
    result = CliRunner().invoke(rap_group, ["demo", *options])
    assert result.exit_code == 2
    assert problem in result.output


def test_a_redis_that_does_not_answer_fails_the_demo() -> None:
    result = CliRunner().invoke(rap_group, ["demo", "--redis", "redis+unix:///nowhere/redis.sock"])
    assert result.exit_code == 1
    assert "could not register: the registry does not answer" in result.output


async def test_a_replica_that_does_not_start_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    async with Fleet("demo", "nonsense://", 3.0, "auto") as fleet:
        with pytest.raises(RuntimeError, match="replica x did not start"):
            await fleet.start("x", 1)
        assert not fleet.live
    assert "nonsense" in capfd.readouterr().err


def test_a_redis_server_that_is_not_a_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_SERVER", "/nowhere/redis-server")
    result = CliRunner().invoke(rap_group, ["demo"])
    assert result.exit_code == 2
    assert "REDIS_SERVER='/nowhere/redis-server' is not a program" in result.output
