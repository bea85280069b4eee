"""`rap serve`: runs a server, drains it on a signal, and names what is wrong with a target."""

import asyncio
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from rap.cli.app import rap as rap_group
from rap.cli.command import ProgramError
from rap.cli.target import load_server
from rap.client import Channel, Client
from rap.server import Server
from tests.cli.programs import PATIENCE, ROOT, interrupt, line_with, rap
from tests.loopback import eventually

MODULE = """
from rap.server import Channel, Server

server = Server("127.0.0.1:0")

@server.register
async def add(a: int, b: int) -> int:
    return a + b

@server.register
async def echo(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)

def make() -> Server:
    return server

async def main() -> None:
    await server.serve_forever()

class Shop:
    server = make
    busy = Server("127.0.0.1:{port}")

text = "no server"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(MODULE.replace("{port}", "0"))
    return tmp_path


def address_of(process: subprocess.Popen[str]) -> str:
    return line_with(process, "rap: listening on").split()[-1]


@pytest.mark.parametrize("target", ["shop:server", "shop:make", "shop:Shop.server"])
async def test_sigterm_drains_and_an_open_channel_finishes(shop: Path, target: str) -> None:
    with rap("serve", target, cwd=shop) as process:
        address = await asyncio.to_thread(address_of, process)
        async with Client(address) as client, asyncio.timeout(PATIENCE):

            @client.register("echo")
            async def talk(channel: Channel) -> list[object]:
                await channel.write(1)
                first = await channel.read_body()
                process.send_signal(signal.SIGTERM)
                await eventually(lambda: channel.draining)
                await channel.write(2)
                return [first, await channel.read_body()]

            assert await client.raw_call("add", 1, 2) == 3
            assert await talk() == [1, 2]
            assert await asyncio.to_thread(process.wait, PATIENCE) == 0


ENDING = """
import asyncio, os, signal
from rap.server import Server

async def end_when_it_serves():
    async def end():
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
    server.ending = asyncio.create_task(end())

class Ending(Server):
    ending = None

server = Ending("127.0.0.1:0", start_event_list=[end_when_it_serves])
"""


def test_a_server_can_end_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ending.py").write_text(ENDING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what `ending` waits to see replaced
    interrupted, hung_up = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)
    try:
        result = CliRunner().invoke(rap_group, ["serve", "ending:server", "--loop", "asyncio"])
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGHUP, hung_up)
    assert result.exit_code == 0, result.output
    assert "rap: listening on 127.0.0.1:" in result.output
    assert result.output.endswith("rap: stopped\n")


LATE = """
import atexit, os, signal
from rap.server import Server

server = Server("127.0.0.1:0")
atexit.register(lambda: [os.kill(os.getpid(), each) for each in (signal.SIGINT, signal.SIGTERM)])
"""


def test_a_signal_after_the_drain_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    with rap("serve", "late:server", cwd=tmp_path) as process:
        line_with(process, "rap: listening on")
        interrupt(process)
        said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert said.endswith("rap: stopped\n")


BUSY = """
import threading
from rap.server import Server

server = Server("127.0.0.1:0")
threading.Thread(target=threading.Event().wait).start()
"""


def test_a_program_whose_thread_goes_on_after_the_drain_can_be_killed(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    with rap("serve", "busy:server", cwd=tmp_path) as process:
        line_with(process, "rap: listening on")
        process.terminate()
        line_with(process, "rap: stopped")
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            process.terminate()
            time.sleep(0.01)
        assert process.poll() == -signal.SIGTERM


IN_TERMINAL = """
import os, signal, sys
os.open(sys.argv.pop(1), os.O_RDWR)  # a new session takes it as its terminal
signal.signal(signal.SIGHUP, getattr(signal, sys.argv.pop(1)))
from rap.cli import main; main()
"""
ENDED = """
from pathlib import Path
from rap.server import Server

server = Server("127.0.0.1:0", stop_event_list=[Path("ended").touch])
"""


@pytest.mark.parametrize("hang_up", ["SIG_DFL", "SIG_IGN"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_closed_terminal_ends_the_command(tmp_path: Path, workers: str, hang_up: str) -> None:
    (tmp_path / "ended.py").write_text(ENDED)
    ours, theirs = pty.openpty()
    command = [os.ttyname(theirs), hang_up, "serve", "ended:server", "--workers", workers]
    with subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = b""
        while seen.count(b"listening on") < int(workers):
            seen += os.read(ours, 4096)
        os.close(ours)
        if hang_up == "SIG_IGN":  # as by nohup
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.terminate()
        assert process.wait(PATIENCE) == 0
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
def test_ctrl_c_drains(shop: Path, loop: str) -> None:
    with rap("serve", "shop:server", "--loop", loop, cwd=shop) as process:
        address_of(process)
        interrupt(process)
        assert process.wait(PATIENCE) == 0
        assert "rap: stopped" in process.communicate()[0]


@pytest.mark.parametrize("options", [[], ["--log-level", "debug"]])
def test_the_address_is_printed_once(shop: Path, options: list[str]) -> None:
    with rap("serve", "shop:server", *options, cwd=shop) as process:
        assert process.stdout is not None
        said: list[str] = []
        while not said or "rap: listening on" not in said[-1]:
            said.append(process.stdout.readline())
        process.terminate()
        said.append(process.communicate(timeout=PATIENCE)[0])
    assert "".join(said).count("listening on") == 1


def test_an_address_in_use_ends_with_status_one(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (shop / "busy.py").write_text(MODULE.replace("{port}", str(port)))
        with rap("serve", "busy:Shop.busy", cwd=shop) as process:
            output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1
    assert "busy:Shop.busy cannot be served" in output
    assert str(port) in output


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("shop", "'shop' has not the form module:server, such as shop:server"),
        ("shop.py", "such as shop:server"),
        (":server", "has not the form"),
        ("shop.py:server", "no module 'shop.py'"),
        ("shop.py:server", "; write it as shop:server"),
        ("nowhere:server", "no module 'nowhere'"),
        ("shop.deep:server", "no module 'shop.deep'"),
        ("shop:nothing", "module 'shop' has no 'nothing'"),
        ("shop:text", "'shop:text' must be a rap.server.Server, got str"),
        ("shop:add", "'shop:add' must be a Server, or a function without arguments that makes one"),
        ("shop:main", "'shop:main' must be a rap.server.Server, got coroutine"),
        ("shop:Shop", "must be a rap.server.Server, got Shop"),
    ],
)
def test_a_bad_target_is_named(
    shop: Path, monkeypatch: pytest.MonkeyPatch, target: str, problem: str
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(str(shop))
    with pytest.raises(ValueError, match=re.escape(problem)):
        load_server(target)


def test_a_module_that_runs_its_server_gets_a_hint_about_the_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unguarded.py").write_text(
        "import asyncio\nfrom rap.server import Server\nserver = Server('127.0.0.1:0')\n"
        "async def main():\n    async with server: pass\nasyncio.run(main())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"own module: put that under `if __name__ =="):
        load_server("unguarded:server")


def test_a_failing_import_of_the_program_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking.py").write_text("import not_to_be_found")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ProgramError, match=r"ModuleNotFoundError: .* 'not_to_be_found'"):
        load_server("lacking:server")


BROKEN = {
    "option": "from rap import Server\n\nserver = Server('localhost:0', close_timeout=-1)\n",
    "hint": "from rap import Server\n\n\ndef server():\n    s = Server('localhost:0')\n"
    "    s.register(lambda: None)\n",
    "name": "import colorsys\n\nserver = undefined\n",
    "syntax": "x = 1\n\ndef f(:\n",
    "within": "from pathlib import Path\n\nPath('/not/there').read_text()\n",
}


@pytest.mark.parametrize(
    ("module", "line", "text", "has_traceback"),
    [
        ("option", 3, "close_timeout must be more than 0 seconds, got -1", False),
        ("hint", 6, "lambda", False),
        ("name", 3, "NameError: name 'undefined' is not defined", True),
        ("syntax", 3, "SyntaxError: ", False),
        ("within", 3, "FileNotFoundError: ", True),
    ],
)
@pytest.mark.parametrize("command", [["serve"], ["serve", "--workers", "2"], ["stub"], ["compat"]])
def test_an_error_in_the_program_names_its_file_and_line_and_no_usage(
    tmp_path: Path, module: str, line: int, text: str, has_traceback: bool, command: list[str]
) -> None:
    (tmp_path / "whole.py").write_text("from rap import Server\nserver = Server('localhost:0')\n")
    (tmp_path / f"{module}.py").write_text(BROKEN[module])
    target = f"{module}:server"
    targets = [target, "whole:server"] if command == ["compat"] else [target]
    with rap(*command, *targets, cwd=tmp_path) as process:
        said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1, said
    error = next(each for each in said.splitlines() if each.startswith("Error: "))
    assert f"{tmp_path}/{module}.py:{line}: " in error
    assert text in error
    assert ("Traceback" in said) == has_traceback
    assert "rap/cli" not in said
    assert "importlib" not in said
    assert "Usage" not in said
    assert "--help" not in said


def test_a_target_can_be_a_server_of_an_installed_module(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(str(shop))
    assert isinstance(load_server("shop:server"), Server)


def test_the_command_line_ends_with_status_two_for_a_bad_target() -> None:
    result = CliRunner().invoke(rap_group, ["serve", "nonsense"])
    assert result.exit_code == 2
    assert "'nonsense' has not the form module:server" in result.output


def test_options_are_read_from_the_environment() -> None:
    result = CliRunner().invoke(
        rap_group, ["serve", "a:b"], auto_envvar_prefix="RAP", env={"RAP_SERVE_LOOP": "trio"}
    )
    assert result.exit_code == 2
    assert "'trio'" in result.output
    assert "uvloop" in result.output


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told_when_clients_can_call(
    options: list[str], is_abstract: bool, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"@rap-{os.getpid()}-{shop.name}" if is_abstract else str(shop / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        with rap("serve", "shop:server", *options, cwd=shop) as process:
            assert manager.recv(100) == b"READY=1"
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            said = process.stdout.read()
            assert said.count("listening on") == (2 if options else 1)
            process.terminate()
            assert process.wait(PATIENCE) == 0
            manager.setblocking(False)
            with pytest.raises(BlockingIOError):
                manager.recv(100)  # nothing from the workers


def test_a_server_starts_although_systemd_is_not_there(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(shop / "nothing"))
    with rap("serve", "shop:server", cwd=shop) as process:
        line_with(process, "listening on")
        line_with(process, "NOTIFY_SOCKET: cannot tell the service manager")
