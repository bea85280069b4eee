"""What others have written reaches logs, errors and terminals as short printable lines."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rap.address import Address
from rap.client import Client
from rap.errors import CallError, Code, HandlerError, decode_error, encode_error
from rap.errors import ExceptionTypes as Types
from rap.foreign import indented, one_line, printable, repr_of
from rap.registry.file import LeaseFiles
from rap.registry.watch_cache import Version, WatchCache
from rap.wire.codec import pack
from rap.wire.frames import GOAWAY, OPEN, RESET, Frame
from rap.wire.hello import hello_frame
from tests.loopback import serving, within

HOSTILE = "\x1b]0;owned\x07\r\n2026-01-01 ERROR forged\u2028\u202eline\x9b31m\x00 " + "x" * 6_000
LONGEST = 400  # characters of a line: 200 of others, and what rap says itself
HELLO = {"rap": 1, "service": "calc", "incarnation": "i", "random": b"r" * 16, "abilities": []}
HELLOS: dict[str, dict[str, Any]] = {
    "versions": {"rap": HOSTILE},
    "highest version": {"rap": 1, "rap_max": [HOSTILE]},
    "a limit": {"rap": 1, "max_frame": HOSTILE},
    "unfinished": {"rap": 1, "max_unfinished": HOSTILE},
    "service": {**HELLO, "service": HOSTILE},
    "incarnation": {**HELLO, "incarnation": HOSTILE},
    "abilities": {**HELLO, "abilities": [HOSTILE]},
    "token": {**HELLO, "token": HOSTILE},
    "unknown": {**HELLO, HOSTILE: 1},
    "min_ping": {**HELLO, "min_ping": HOSTILE},
}
WORKING = ("incarnation", "abilities", "token", "unknown", "min_ping")


def go_away(code: Code) -> bytes:
    return Frame(GOAWAY, 0, 0, b"", pack([code, HOSTILE])).encode()


def is_safe(text: str) -> bool:
    return text.isprintable() and len(text) <= LONGEST


def check_log(caplog: pytest.LogCaptureFixture) -> None:
    """Fail if a line of the log is not safe."""
    assert caplog.records
    assert [text for text in caplog.messages if not is_safe(text)] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("naïve 中文 😀", "naïve 中文 😀"),
        ("two\nlines\r\n\tand more", "two lines and more"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb\u2066c\u200bd", r"a\u202eb\u2066c\u200bd"),
        ("a\u2028b\u2029c\x85d", "a b c d"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("\x00" * 1_000_000, r"\x00" * 49 + r"\x0" + "…"),
        (" " * 1_000_000, ""),
        (ValueError("of an\nerror"), "of an error"),
    ],
)
def test_a_foreign_text_becomes_one_printable_line(text: object, line: str) -> None:
    assert one_line(text) == line


def test_an_object_whose_text_cannot_be_made_is_named() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert one_line(Broken()) == "Broken, which has no text"


def test_a_printable_text_keeps_its_lines() -> None:
    assert printable("a\n\tb\x1b[1m\rc") == "a\n\tb\\x1b[1m\\rc"


def test_no_line_of_an_indented_text_begins_another() -> None:
    assert indented("a\nb\r\n\x1b[1mc\n") == "a\n  b\\r\n  \\x1b[1mc\n  "


def test_an_error_keeps_what_the_server_sent_and_is_safe_to_print() -> None:
    details = {"type": HOSTILE, "traceback": HOSTILE}
    error = decode_error(Code.UNKNOWN, "first\nsecond \x1b[2J" + HOSTILE, details, Types())
    assert isinstance(error, HandlerError)
    assert error.message.startswith("first\nsecond \x1b[2J")
    assert len(error.message) == 4096
    for text in (str(error), repr(error), *error.__notes__):
        assert text.replace("\n", "").replace("\t", "").isprintable()
    assert "first\nsecond" in str(error)
    assert encode_error(error)[1] == error.message


def test_an_address_is_printable_and_short() -> None:
    for text in ("host\x1b[1m:80", "unix:///a\nb", "\u202ehost:80", "h" * 2000 + ":80"):
        with pytest.raises(ValueError, match="address must be") as caught:
            Address.parse(text)
        assert is_safe(str(caught.value))


RECORD: dict[str, Any] = {
    "addr": "127.0.0.1:9000",
    "weight": 1,
    "zone": "",
    "incarnation": "i",
    "state": "up",
    "meta": {},
}


@pytest.mark.parametrize(
    ("endpoint_id", "record"),
    [
        (HOSTILE, RECORD),
        ("id", HOSTILE),
        ("id", [HOSTILE] * 9),
        *(("id", {**RECORD, name: value}) for name in RECORD for value in (HOSTILE, [HOSTILE])),
    ],
)
def test_a_record_that_someone_has_forged_is_safe_to_log(
    endpoint_id: str, record: object, caplog: pytest.LogCaptureFixture
) -> None:
    cache = WatchCache()
    cache.replace(Version(1, 1, ""), {endpoint_id: pack(record)}, {}, 0.0)
    assert [text for text in caplog.messages if not is_safe(text)] == []
    for endpoint in (cache.snapshot or {}).values():
        assert is_safe(endpoint.id)
        assert is_safe(str(endpoint.address))


def test_only_some_forged_records_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    cache = WatchCache()
    for start in (0, 10_000):
        cache.replace(Version(1, 1, ""), {f"{start + n}": b"" for n in range(1000)}, {}, 0.0)
    assert len(caplog.messages) == 256


def test_only_some_forged_files_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(300):
        (tmp_path / f"{number}.json").write_text("[]")
    (tmp_path / ".known").touch()
    files = LeaseFiles(tmp_path, time.time)
    for _ in range(2):
        assert not files.snapshot()
    assert len(caplog.messages) == 256


@pytest.mark.parametrize("hello", HELLOS.values(), ids=list(HELLOS))
async def test_a_hello_of_a_client_is_safe_to_log(
    hello: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rap")
    async with serving(verify_token=lambda token: None) as server:
        await send(server.addresses[0], hello_frame(hello))
    check_log(caplog)


@pytest.mark.parametrize(
    "frames",
    [
        go_away(Code.INTERNAL),
        go_away(Code.UNAUTHENTICATED),
        Frame(OPEN, 5, 1, pack([f"/default/{HOSTILE}", 0, {HOSTILE: HOSTILE}]), b"\x90").encode(),
        Frame(OPEN, 5, 1, pack([HOSTILE, 0]), b"\x90").encode(),
        Frame(OPEN, 1, 1, pack(["/default/wait", 0]), b"\x90").encode()
        + Frame(RESET, 0, 1, b"", pack([13, HOSTILE, {"type": HOSTILE}])).encode(),
        Frame(OPEN, 5, 1, pack(["/default/fail", 0, {HOSTILE: HOSTILE}]), b"\x90").encode(),
    ],
)
async def test_a_frame_of_a_client_is_safe_to_log(
    frames: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async def fail() -> None:
        raise CallError(HOSTILE, code=Code.INTERNAL)

    caplog.set_level(logging.DEBUG, "rap")
    async with serving(wait, fail) as server:
        await send(server.addresses[0], hello_frame(HELLO) + frames)
    check_log(caplog)


async def send(address: Address, data: bytes) -> None:
    """Send bytes, let the server read them, and leave."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(data)
    writer.write_eof()
    with suppress(ConnectionError):
        await within(reader.read())
    writer.transport.abort()


@asynccontextmanager
async def talking(*said: bytes) -> AsyncIterator[str]:
    """Run a server that says the same on each connection, and then answers each call so."""
    first, answer = said

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        heard = bytearray()
        while data := await reader.read(4096):
            heard += data
            if b"/default/f" in heard:
                heard.clear()
                writer.write(answer)
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def fail_at(said: bytes, error: object = None) -> CallError:
    """Call a server that says this, and answers with this Reset; return the error."""
    reset = Frame(RESET, 0, 1, b"", pack(error)).encode()
    async with talking(said, reset) as address:
        client = Client(registry=f"static://{address}", service="calc", connect_timeout=0.3)
        with pytest.raises(CallError) as caught:
            async with client:
                await client.raw_call("f", timeout=0.3)
    return caught.value


@pytest.mark.parametrize(
    "said",
    [
        *(hello_frame(HELLOS[name]) for name in HELLOS if name not in WORKING),
        go_away(Code.INTERNAL),
        go_away(Code.UNAUTHENTICATED),
        go_away(Code.FAILED_PRECONDITION),
        hello_frame(HELLO) + go_away(Code.RESOURCE_EXHAUSTED),
    ],
)
async def test_a_server_that_refuses_is_safe_to_log_and_to_print(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rap")
    error = await fail_at(said)
    check_log(caplog)
    assert str(error).isprintable()
    assert len(str(error)) < 1000


@pytest.mark.parametrize("hello", [HELLOS[name] for name in WORKING])
@pytest.mark.parametrize(
    "error",
    [
        [13, HOSTILE, {}],
        [2, HOSTILE, {"type": HOSTILE, "bases": [HOSTILE], "traceback": HOSTILE}],
        [12, HOSTILE, {"suggestion": HOSTILE, "groups": [HOSTILE]}],
        [8, HOSTILE, {"retry_after": HOSTILE, "limit": HOSTILE}],
        HOSTILE,
    ],
)
async def test_an_error_of_a_server_is_safe_to_log_and_to_print(
    hello: dict[str, Any], error: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rap")
    caught = await fail_at(hello_frame(hello), error)
    check_log(caplog)
    text = str(caught)
    assert text.replace("\n", " ").replace("\t", " ").isprintable()
    assert len(text) < 5000


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("a\nb"),
        KeyError("k", 1),
        OSError(2, "gone"),
        RuntimeError([1, "x"]),
    ],
)
def test_a_short_error_is_shown_as_repr_does(error: BaseException) -> None:
    assert repr_of(error, 1000) == repr(error)


class Own(ValueError):
    def __repr__(self) -> str:
        return f"<own {self.args[0]}>"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("\u202e" * 900_000),
        ValueError(*"abc" * 1_000),
        ValueError(["x" * 900_000] * 1_000),
        KeyError(b"x" * 900_000),
        Own("x" * 900_000),
    ],
)
def test_a_long_error_is_shown_in_part(error: BaseException) -> None:
    shown = repr_of(error, 1000)
    assert shown.startswith(f"{type(error).__name__}(" if type(error) is not Own else "<own x")
    assert len(shown) < 7_000


def test_a_text_is_escaped_as_each_of_its_characters() -> None:
    text = "".join(map(chr, range(0x3000))) + "\ud800\U000e0001\U0001f600"
    assert printable(text) == "".join(map(printable, text))
    assert printable(text).count("\n") == printable(text).count("\t") == 1
