"""The logs of `rap serve`: each call is one line, and a reader that is slow stops no call."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from rap.cli.logs import BackgroundHandler, Formatter
from rap.client.sync import SyncClient
from rap.errors import CallError
from tests.cli.programs import PATIENCE, ROOT, line_with, rap

MODULE = """
from rap.server import Server

server = Server("127.0.0.1:0"OPTION)

@server.register
async def add(a: int, b: int = 1) -> int:
    return a + b

@server.register
async def fail(text: str) -> None:
    try:
        raise LookupError(text)
    except LookupError as error:
        raise RuntimeError(text) from error
"""
FORGED = "2026-11-30 23:00:00,000 ERROR rap.server: forged"
HOSTILE = f"x\n{FORGED}\r\n{FORGED}\u2028{FORGED} \x1b[31m\x1b[2J\u202e\x9b\x85\x00"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(MODULE.replace("OPTION", ""))
    (tmp_path / "quiet.py").write_text(MODULE.replace("OPTION", ", access_log=False"))
    (tmp_path / "own.py").write_text(
        "import logging\nlogging.basicConfig(level='INFO', format='own %(message)s')\n"
        + MODULE.replace("OPTION", "")
    )
    return tmp_path


def said_about_a_call(cwd: Path, *args: str) -> str:
    """Return what a server prints after a call of `add`."""
    with rap("serve", *args, cwd=cwd) as process:
        address = line_with(process, "listening on").split()[-1]
        with SyncClient(address) as client:
            assert client.raw_call("add", 1) == 2
        process.terminate()
        said = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 0, said
    return said


@pytest.mark.parametrize(
    "args",
    [
        ("shop:server",),
        ("shop:server", "--log-level", "debug"),
        ("shop:server", "--workers", "2"),
        ("quiet:server", "--access-log"),
    ],
)
def test_a_call_is_logged_once_and_its_connection_only_for_debugging(
    shop: Path, args: tuple[str, ...]
) -> None:
    said = said_about_a_call(shop, *args)
    assert said.count("INFO rap.server.access: method=/default/add peer=127.0.0.1:") == 1
    assert ("DEBUG rap.server: connection with" in said) == ("debug" in args)
    assert "INFO rap.server: connection" not in said


@pytest.mark.parametrize("args", [("shop:server",), ("shop:server", "--workers", "2")])
def test_the_text_of_an_exception_controls_no_terminal_and_forges_no_record(
    shop: Path, args: tuple[str, ...]
) -> None:
    with rap("serve", *args, cwd=shop) as process:
        address = line_with(process, "listening on").split()[-1]
        with SyncClient(address) as client, pytest.raises(CallError):
            client.raw_call("fail", HOSTILE)
        with SyncClient(address) as client, pytest.raises(CallError):
            client.raw_call("fail", "y" * 500_000)
        process.terminate()
        said = process.communicate(timeout=PATIENCE)[0]
    assert "Traceback" in said
    assert "forged" in said
    assert all(line.isprintable() for line in said.split("\n"))
    assert not [line for line in said.split("\n") if line.startswith(FORGED)]
    assert max(map(len, said.split("\n"))) < 100_000


@pytest.mark.parametrize(
    "args",
    [
        ("shop:server", "--no-access-log"),
        ("shop:server", "--no-access-log", "--workers", "2"),
        ("shop:server", "--log-level", "warning"),
        ("quiet:server",),
    ],
)
def test_the_access_log_can_be_turned_off(shop: Path, args: tuple[str, ...]) -> None:
    assert "method=" not in said_about_a_call(shop, *args)


def test_logging_that_the_program_has_set_up_gets_the_lines(shop: Path) -> None:
    assert "own method=/default/add " in said_about_a_call(shop, "own:server")


JSON_LOGS = """
import json, logging, sys

class Lines(logging.Formatter):
    def format(self, record):
        found = {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        return json.dumps(found)
"""
JSON_CONFIG = {
    "version": 1,
    "formatters": {"json": {"()": "json_lines.Lines"}},
    "handlers": {
        "out": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "stream": "ext://sys.stdout",
        }
    },
    "root": {"level": "INFO", "handlers": ["out"]},
}
JSON_PROGRAM = """
import logging, sys
import json_lines

handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(json_lines.Lines())
logging.basicConfig(level="INFO", handlers=[handler])
"""


def in_json(cwd: Path, *args: str) -> list[dict[str, str]]:
    """Return what a server says of its life; every line is JSON."""
    (cwd / "json_lines.py").write_text(JSON_LOGS)
    (cwd / "logs.json").write_text(json.dumps(JSON_CONFIG))
    (cwd / "json_shop.py").write_text(JSON_PROGRAM + MODULE.replace("OPTION", ""))
    workers = 2 if "2" in args else 1
    lines: list[str] = []
    with rap("serve", *args, "--metrics-port", "0", cwd=cwd) as process:
        assert process.stdout is not None
        while sum("listening on" in each for each in lines) < workers:
            lines.append(process.stdout.readline())
        process.terminate()
        lines += process.communicate(timeout=PATIENCE)[0].splitlines()
        assert process.returncode == 0, lines
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "args",
    [
        ("json_shop:server",),
        ("shop:server", "--log-config", "logs.json"),
        ("json_shop:server", "--workers", "2"),
        ("shop:server", "--log-config", "logs.json", "--workers", "2"),
    ],
)
def test_every_line_goes_through_the_logging_that_was_set_up_and_comes_once(
    shop: Path, args: tuple[str, ...]
) -> None:
    said = [each["message"] for each in in_json(shop, *args)]
    workers = 2 if "2" in args else 1
    assert sum("listening on" in each for each in said) == workers
    assert sum(each == "stopped" for each in said) == (1 if "--log-config" in args else workers)


def test_an_ini_file_sets_up_logging_and_loggers_stay_enabled(shop: Path) -> None:
    (shop / "logs.ini").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=out\n[formatters]\nkeys=own\n"
        "[logger_root]\nlevel=INFO\nhandlers=out\n"
        "[handler_out]\nclass=StreamHandler\nformatter=own\nargs=(sys.stdout,)\n"
        "[formatter_own]\nformat=own %(message)s\n"
    )
    said = said_about_a_call(shop, "shop:server", "--log-config", "logs.ini")
    assert "own method=/default/add " in said
    assert all(line.startswith("own ") for line in said.splitlines())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "got list"),
        ('{"version": 1, "root": {"handlers": ["gone"]}}', "gone"),
        ('{"version": 1, "formatters": {"a": {"()": "away.Format"}}}', "away"),
    ],
)
def test_a_file_that_cannot_set_up_logging_is_named(shop: Path, text: str, why: str) -> None:
    (shop / "logs.json").write_text(text)
    with rap("serve", "shop:server", "--log-config", "logs.json", cwd=shop) as process:
        said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 2
    assert "'--log-config'" in said
    assert "logs.json: " in said
    assert why in said


@pytest.mark.parametrize("level", ["WARNING", "Warning"])
def test_a_level_may_be_written_as_python_writes_it(shop: Path, level: str) -> None:
    assert "method=" not in said_about_a_call(shop, "shop:server", "--log-level", level)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_printed_is_not_logged_too(shop: Path, workers: str) -> None:
    said = said_about_a_call(shop, "shop:server", "--workers", workers, "--metrics-port", "0")
    assert "rap.server: metrics at" not in said
    assert "rap.server: listening on" not in said
    assert "rap.server: stopped" not in said
    assert said.count("rap: stopped") == 1


def test_a_server_whose_output_no_program_reads_keeps_answering(shop: Path) -> None:
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "rap.cli", "serve", "shop:server"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        cwd=shop,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    ) as process:
        os.close(theirs)
        try:
            address = line_with(process, "listening on").split()[-1]
            with SyncClient(address) as client:
                for _ in range(2000):  # more lines than a pipe holds
                    assert client.raw_call("add", 1, timeout=PATIENCE) == 2
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            os.close(ours)


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """A pipe that holds little, from its reading to its writing end."""
    ours, theirs = os.pipe()
    yield ours, theirs
    os.close(theirs)
    os.close(ours)


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("rap", logging.INFO, "", 0, text, None, None)


def test_lines_that_find_no_room_are_left_out_and_counted(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    handler = BackgroundHandler(theirs, most=3)
    text = "x" * 300_000  # more than the pipe holds: the thread waits
    handler.handle(record(text))
    assert os.read(ours, 1) == b"x"  # the thread has taken it
    for number in range(10):
        handler.handle(record(f"line {number}"))
    seen = b""
    while not seen.endswith(b"line 2\n"):
        seen += os.read(ours, 1 << 16)
    handler.handle(record("last"))
    handler.close()
    seen += os.read(ours, 1 << 16)
    assert seen.decode().splitlines()[1:] == [
        "line 0",
        "line 1",
        "line 2",
        "7 lines of the log were left out, because it is read too slowly",
        "last",
    ]


def test_what_was_logged_is_written_when_it_is_flushed(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    handler = BackgroundHandler(theirs)
    for number in range(1000):
        handler.handle(record(f"line {number}"))
    handler.flush()
    assert os.read(ours, 1 << 20).decode().splitlines() == [f"line {n}" for n in range(1000)]
    handler.close()


def test_lines_that_were_left_out_are_counted_at_the_end(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    handler = BackgroundHandler(theirs, most=1)
    handler.handle(record("x" * 300_000))
    assert os.read(ours, 1) == b"x"  # the thread has taken it
    for number in range(3):
        handler.handle(record(f"line {number}"))
    seen = b""
    while not seen.endswith(b"line 0\n"):
        seen += os.read(ours, 1 << 16)
    handler.close()
    seen += os.read(ours, 1 << 16)
    assert seen.decode().splitlines()[1:] == [
        "line 0",
        "2 lines of the log were left out, because it is read too slowly",
    ]


def test_a_reader_that_has_gone_ends_only_the_log() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    handler = BackgroundHandler(theirs)
    for number in range(10):
        handler.handle(record(f"line {number}"))
    handler.close()
    handler.handle(record("after the end"))
    handler.close()
    os.close(theirs)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_writes_its_lines_too(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    handler = BackgroundHandler(theirs)
    handler.handle(record("of the parent"))
    handler.flush()
    child = os.fork()
    if not child:
        handler.handle(record("of the child"))
        os._exit(0)  # as multiprocessing ends its children
    os.waitpid(child, 0)
    handler.handle(record("after it"))
    handler.close()
    assert os.read(ours, 1 << 16).decode().splitlines() == [
        "of the parent",
        "of the child",
        "after it",
    ]


def formatted(error: BaseException) -> tuple[str, str]:
    """Return a record with a traceback, as `rap serve` and as `logging` write it."""
    record = logging.LogRecord("rap.server", logging.ERROR, __file__, 1, "it raised", (), None)
    record.exc_info = (type(error), error, error.__traceback__)
    ours = Formatter().format(record)
    record.exc_text = None  # `logging` keeps what the first formatter has made
    return ours, logging.Formatter().format(record).replace("\n", "\n  ")


def fail(text: str) -> NoReturn:
    failed = RuntimeError(text)
    failed.add_note("a note\nof two lines")
    raise failed


def raised(text: str, how: str) -> BaseException:
    """Return an exception that others have come before."""
    try:
        try:
            raise LookupError(text)
        except LookupError as error:
            if how == "cause":
                raise RuntimeError(text) from error
            if how == "suppressed":
                raise RuntimeError(text) from None
            if how == "group":
                raise ExceptionGroup(text, [ValueError(text), OSError(3, text)]) from error
            fail(text)
    except Exception as error:
        return error


@pytest.mark.parametrize("how", ["cause", "context", "suppressed", "group"])
def test_a_short_traceback_is_that_of_the_standard_library(how: str) -> None:
    ours, theirs = formatted(raised("of some text", how))
    assert ours == theirs


@pytest.mark.parametrize("how", ["cause", "context", "suppressed", "group"])
@pytest.mark.parametrize("character", ["y", "\n", "\u202e", "\x80", "\U000e0001"])
def test_a_long_text_of_an_exception_is_cut_after_it_is_escaped(how: str, character: str) -> None:
    ours, _ = formatted(raised(f"begin {character * 200_000} end", how))
    assert len(ours) < 66_000
    assert "begin" in ours
    assert ours.endswith(" end") or how in ("context", "group")
    assert all(line.isprintable() for line in ours.split("\n"))


def test_a_long_message_is_cut() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 1, "from %s to", ("\x80" * 900_000,), None)
    assert len(Formatter().format(record)) < 20_000


def test_a_record_that_should_have_a_traceback_and_has_none_is_written() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 1, "so", (), (None, None, None))
    assert Formatter().format(record).endswith("so\n  NoneType: None")
