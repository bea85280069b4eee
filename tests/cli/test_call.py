"""`rap call`: arguments as JSON, answers of every kind of function, errors, exit statuses."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rap.cli.commands.call import _Printer
from rap.cli.json_values import parse_value, to_json
from rap.server import Channel, Server, context
from rap.transport import Connection
from tests.cli.programs import PATIENCE, ROOT, RUNNER, interrupt, line_with, rap
from tests.cli.shop import invoke, shop
from tests.loopback import serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with shop() as server:
        yield server


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["add", "1", "2"], "3\n"),
        (["add", "1"], "2\n"),
        (["default/add", "1"], "2\n"),
        (["/default/add", "1", "--group", "other"], "2\n"),
        (["add", "1", "b=5"], "6\n"),
        (["add", "b=5", "a=1"], "6\n"),
        (["add", "-1", "-2"], "-3\n"),
        (["show", "no json"], '"no json"\n'),
        (["show", '"1"'], '"1"\n'),
        (["show", "NaN"], '"NaN"\n'),
        (["show", "ä\t"], '"ä\\t"\n'),
        (["show", '{"a":[1,null,true,2.5]}'], '{"a":[1,null,true,2.5]}\n'),
        (["show", "1", "mark=x"], '[1,"x"]\n'),
        (["show", "a=b"], None),  # an argument named a
        (["show", '"a=b"'], '"a=b"\n'),
        (["turn", '{"$base64": "YWJj"}'], '"Y2Jh"\n'),
        (["turn", '{"$base64": "YWJj"}', "--text"], "cba"),
        (["show", "two words", "--text"], "two words\n"),
        (["show", "[1]", "--text"], "[1]\n"),
        (["item", "hat"], '{"name":"hat","price":1.5}\n'),
        (["hidden", "--group", "back"], '"seen"\n'),
        (["count", "3"], "0\n1\n2\n"),
        (["count", "0"], ""),
    ],
)
async def test_it_prints_the_answer_of_the_function(
    server: Server, args: list[str], answer: str | None
) -> None:
    result = await invoke(server, "call", *args)
    if answer is None:
        assert result.exit_code == 1
        assert "missing a required argument: 'value'" in result.stderr
    else:
        assert (result.stdout, result.stderr, result.exit_code) == (answer, "", 0)


@pytest.mark.parametrize(
    ("func", "lines", "answer"),
    [
        ("shout", 'a\n"b"\n{"c": 1}\nstop\n', '"A"\n"B"\n{"c":1}\n'),
        ("shout", "no line end\nstop", '"NO LINE END"\n'),
        ("greet_first", "never read\n" * 1000, '"hello"\n'),
    ],
)
async def test_lines_of_the_input_are_the_messages_to_a_channel(
    server: Server, func: str, lines: str, answer: str
) -> None:
    result = await invoke(server, "call", func, "--linger", "60", input=lines)
    assert (result.stdout, result.stderr, result.exit_code) == (answer, "", 0)


async def test_the_end_of_the_messages_of_a_channel_is_not_shown(server: Server) -> None:
    async def leave(channel: Channel) -> int:
        await channel.write("last")
        await channel.end()
        return len([body async for body in channel])

    server.register(leave)
    result = await invoke(server, "call", "leave", input="1\n2\n")
    assert (result.stdout, result.stderr, result.exit_code) == ('"last"\n2\n', "", 0)


async def test_lines_are_strings_with_text(server: Server) -> None:
    result = await invoke(server, "call", "shout", "--text", input='1\n"b"\nstop')
    assert result.stdout == '1\n"B"\n'


async def test_a_long_input_comes_back_whole(server: Server) -> None:
    lines = "".join(f"{i}\n" for i in range(5000))
    result = await invoke(server, "call", "shout", input=f"{lines}stop")
    assert result.stdout == lines


@pytest.mark.parametrize("lines", ["", "1\n2\n"])
async def test_a_channel_is_closed_when_its_answers_have_stopped(
    server: Server, lines: str
) -> None:
    result = await invoke(server, "call", "listen", "--linger", "0.01", input=lines)
    assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nope"], "UNIMPLEMENTED: no function '/default/nope' on this server"),
        (["add", "1", "x"], "INVALID_ARGUMENT: add(): argument 'b': expected `int`, got `str`"),
        (["fail", "ABORTED"], "ABORTED: as you wish"),
        (["fail", "bug"], "UNKNOWN: ZeroDivisionError: by \\x1b[31mzero"),
        (["fail", "silent"], "UNKNOWN: KeyError"),
        (["shout", "1"], "shout is a channel, which takes no arguments; write them to its input"),
        (["add", "1", "-"], "add takes no items; leave out '-'"),
        (["count", "n=2", "-"], "count takes no items; leave out '-'"),
    ],
)
async def test_a_call_that_fails_is_one_line_and_status_1(
    server: Server, args: list[str], said: str
) -> None:
    result = await invoke(server, "call", *args)
    assert (result.stdout, result.stderr, result.exit_code) == ("", f"Error: {said}\n", 1)


@pytest.mark.parametrize(
    ("args", "lines", "answer"),
    [
        (["upload", "x"], "1\n2\n", '{"x":3}\n'),
        (["upload", "name=x", "-"], "1\n2", '{"x":3}\n'),
        (["upload", "-", "x"], "", '{"x":0}\n'),
        (["upload", '"-"', "-"], "5\n", '{"-":5}\n'),
        (["plainly", "--text"], "a\n1\n", "a!\n1!\n"),
        (["plainly", "sign=?", "-"], '"a"\n', '"a?"\n'),
        (["chat", "tea"], "a\nb\n", '"tea: a"\n"tea: b"\n2\n'),
        (["chat", "room=tea", "times=2", "-"], "a\n", '"tea: aa"\n1\n'),
        (["shout", "-"], "a\nstop\nb", '"A"\n'),
        (["listen"], "1\n", ""),
    ],
)
async def test_lines_of_the_input_are_the_items_of_a_request_stream(
    server: Server, args: list[str], lines: str, answer: str
) -> None:
    result = await invoke(server, "call", *args, input=lines)
    assert (result.stdout, result.stderr, result.exit_code) == (answer, "", 0)


async def test_a_long_request_stream_arrives_whole(server: Server) -> None:
    lines = "".join(f"{i}\n" for i in range(20_000))
    result = await invoke(server, "call", "upload", "x", input=lines)
    assert result.stdout == f'{{"x":{sum(range(20_000))}}}\n'
    result = await invoke(server, "call", "plainly", "--text", "sign=", input=lines)
    assert result.stdout == lines


async def test_an_item_of_the_wrong_type_fails_the_call(server: Server) -> None:
    result = await invoke(server, "call", "upload", "x", input='1\n"a"\n')
    assert "INVALID_ARGUMENT: upload(): item" in result.stderr
    assert "expected `int`, got `str`" in result.stderr
    assert result.exit_code == 1
    result = await invoke(server, "call", "upload", "x", input='{"$base64": "?"}\n')
    assert "$base64 must be text in base64" in result.stderr


async def test_a_channel_of_an_older_server_may_answer_after_the_last_line(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "peer_has", lambda *_: False)
    result = await invoke(server, "call", "shout", "--linger", "0.2", input="a\nb\n")
    assert (result.stdout, result.stderr, result.exit_code) == ('"A"\n"B"\n', "", 0)


async def test_a_function_that_ignores_the_end_is_left_after_the_linger_time(
    server: Server,
) -> None:
    result = await invoke(server, "call", "deaf", "--linger", "0.05", input="1\n")
    assert (result.stdout, result.stderr, result.exit_code) == ('"hello"\n', "", 0)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["upload", "x"], 'header {"kind":"sum"}\ntrailer {"rows":["x"]}\n'),
        (["add", "1"], "header {}\ntrailer {}\n"),
        (["fail", "ABORTED"], "header {}\ntrailer {}\nError: ABORTED: as you wish\n"),
    ],
)
async def test_header_and_trailer_are_printed_on_request(
    server: Server, args: list[str], said: str
) -> None:
    result = await invoke(server, "call", *args, "--include", input="1\n")
    assert result.stderr == said


async def test_items_before_an_error_are_printed(server: Server) -> None:
    result = await invoke(server, "call", "pairs", "2")
    assert result.stdout == "[0,0]\n[1,1]\n"
    assert (result.stderr, result.exit_code) == ("Error: UNKNOWN: ValueError: enough\n", 1)


@pytest.mark.parametrize("command", [["call"], ["bench", "-n", "3"]])
async def test_calls_have_the_priority_of_the_command_line(command: list[str]) -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(context.priority)

    async with serving(look) as server:
        for options in ([], ["--priority", "sheddable"]):
            result = await invoke(server, *command, "look", *options)
            assert result.exit_code == 0, result.output
    assert {*seen} == {"default", "sheddable"}
    assert seen[-1] == "sheddable"


async def test_a_call_takes_no_longer_than_timeout() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async with serving(wait) as server:
        result = await invoke(server, "call", "wait", "--timeout", "1")
    assert result.stderr.startswith("Error: DEADLINE_EXCEEDED: ")
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "Missing argument 'FUNC'"),
        (["f", "--host", "nowhere"], "Invalid value for '--host': it must be host:port"),
        (["f", "--host", "h:99999"], "'--host': the port must be 0 to 65535, got '99999'"),
        (["f", "--host", "h:0"], "Invalid value for '--host': port 0 cannot be dialled, got 'h:0'"),
        (["f", "--timeout", "0"], "'--timeout': it must be more than 0 seconds, got 0"),
        (["f", "--timeout", "x"], "'--timeout': 'x' is not a valid float"),
        (["f", "--nope"], "No such option '--nope'"),
        (["f", "--registry", "redis://h"], "--registry needs --service"),
        (["f", "--registry", "x://h", "--service", "s"], "--registry 'x://h': unknown scheme 'x'"),
        (["f", "--service", "s"], "--service s needs --registry"),
        (["f", "--namespace", "n"], "--namespace n needs --registry"),
        (
            ["f", "--host", "h:1", "--registry", "memory://"],
            "give --host h:1 or --registry, not both",
        ),
        (
            ["f", "--registry", "memory://?namespace=a", "--namespace", "b", "--service", "s"],
            "give --namespace or a --registry URL with a namespace, not both",
        ),
        (["f", "--ca", "/nowhere"], "Invalid value for '--ca': File '/nowhere' does not exist"),
        (["f", "--pin", __file__, "--ca", __file__], "give --pin (one pinned certificate) or --ca"),
        (["f", "--key", __file__], "--key needs --cert"),
        (["f", "a=1", "2"], "'2' follows a named argument; put it before a="),
        (["f", "a=1", "a=2"], "a= is given twice"),
        (["f", '{"$base64": "?"}'], "$base64 must be text in base64, got '?'"),
    ],
)
async def test_a_wrong_command_line_is_one_line_and_status_2(args: list[str], said: str) -> None:
    result = await invoke(None, "call", *args)
    assert said in result.stderr
    assert result.stderr.endswith("; see rap call --help\n")
    assert (result.stderr.count("\n"), result.stdout, result.exit_code) == (1, "", 2)


async def test_servers_that_refuse_connections_fail_the_command_at_once() -> None:
    result = await asyncio.wait_for(
        invoke(None, "call", "f", "--host", "127.0.0.1:1", "--timeout", "3600"), PATIENCE
    )
    assert result.stderr.startswith("Error: UNAVAILABLE: no usable server: 127.0.0.1:1 (")
    assert result.exit_code == 1


async def test_a_service_without_servers_fails_the_command_at_once() -> None:
    where = ("--registry", "memory://none", "--service", "shoe", "--timeout", "3600")
    result = await asyncio.wait_for(invoke(None, "call", "f", *where), PATIENCE)
    text = "Error: UNAVAILABLE: no server of service 'shoe': the registry lists none ("
    assert result.stderr.startswith(text)
    assert "(memory:// has the servers of this process alone" in result.stderr
    assert result.stderr.endswith("(use --wait to wait for a server)\n")


async def test_a_command_waits_for_a_server_on_request() -> None:
    async with shop() as server:
        where = str(server.addresses[0])
    refused = ("--host", where, "--timeout", "0.2", "--wait")
    result = await invoke(None, "call", "f", *refused)
    assert result.stderr.endswith("; waited 0.2 s (option connect_timeout)\n")
    calling = asyncio.create_task(invoke(None, "call", "add", "1", "--host", where, "--wait"))
    async with shop(host=where):
        assert (await asyncio.wait_for(calling, PATIENCE)).stdout == "2\n"


async def test_a_service_is_found_in_a_registry(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    where = ("--registry", url, "--namespace", "lab")
    async with shop(service="shop", registry=f"{url}?namespace=lab"):
        result = await invoke(None, "call", "add", "1", *where, "--service", "shop")
        assert (result.stdout, result.stderr) == ("2\n", "")
        result = await invoke(
            None, "call", "add", "1", *where, "--service", "shoe", "--timeout", "1"
        )
    assert "no server of service 'shoe': the registry lists none" in result.stderr


async def test_a_token_is_read_from_the_environment_and_never_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def verify(token: Any, _: Any) -> str | None:
        return "me" if token == "s3cret" else None

    async with shop(verify_token=verify) as server:
        monkeypatch.setenv("RAP_TOKEN", "s3cret")
        assert (await invoke(server, "call", "add", "1")).stdout == "2\n"
        result = await invoke(server, "call", "add", "1", "--token", "gu3ss")
    assert "UNAUTHENTICATED" in result.stderr
    assert result.exit_code == 1
    help_text = (await invoke(None, "call", "--help")).stdout
    assert "RAP_TOKEN" in help_text
    assert "s3cret" not in help_text
    assert "gu3ss" not in result.stderr


def test_an_answer_on_a_terminal_is_indented(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = _Printer(False, 2)
    printer.print_answer({"a": [1]})
    printer.print_item({"a": 1})
    assert capsys.readouterr().out == '{\n  "a": [\n    1\n  ]\n}\n{"a":1}\n'


@pytest.mark.parametrize("value", [b"\x00", {"a": (1, b"x")}, {1: None}, float("nan")])
def test_every_value_can_be_written_as_json(value: Any) -> None:
    assert parse_value(to_json(value)) is not None


HOSTILE = "red \x1b[31m, \x9b31m, \u202eback\u2028, \ud800 \U000e0041 and é 😀"


def test_json_has_no_characters_that_control_a_terminal() -> None:
    for indent in (None, 2):
        text = to_json({HOSTILE: [HOSTILE]}, indent=indent)
        assert text.replace("\n", "").isprintable()
        assert "é 😀" in text
        assert parse_value(text) == {HOSTILE: [HOSTILE]}


def test_text_on_a_terminal_has_no_characters_that_control_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    printer = _Printer(True, None)
    for value in ("a\x1b[2J\nb", b"a\x1b[2J\nb", b"\xff\x1b"):
        printer.print_answer(value)
        printer.print_item(value)
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert out.startswith("a\\x1b[2J\nb\n")


async def test_an_error_of_a_function_is_one_printable_line() -> None:
    async def fail() -> None:
        raise ValueError("a\x1b[2J\nb\u202e" + "x" * 3000)

    async with serving(fail) as server:
        result = await invoke(server, "call", "fail")
    assert result.stderr.startswith("Error: UNKNOWN: ValueError: a\\x1b[2J b\\u202exxx")
    assert len(result.stderr) < 1100


PROGRAM = """
import itertools
from collections.abc import AsyncIterator
from rap.server import Server
from rap.transport import Connection

server = Server("127.0.0.1:0")

@server.register
async def forever() -> AsyncIterator[int]:
    for i in itertools.count():
        yield i
"""


SILENT = """
import asyncio
from collections.abc import AsyncIterator
from rap.server import Channel, Server

server = Server("127.0.0.1:0")

@server.register
async def items() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 0

@server.register
async def answer() -> int:
    await asyncio.Event().wait()
    return 0

@server.register
async def talk(channel: Channel) -> None:
    await asyncio.Event().wait()

@server.register
async def one() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()
"""


def test_a_call_that_gets_no_answer_says_that_it_waits(tmp_path: Path) -> None:
    (tmp_path / "silent.py").write_text(SILENT)
    calls = {
        ("items",): True,
        ("answer",): True,
        ("talk",): True,  # its input has ended
        ("one",): False,
        ("items", "--timeout", "6"): False,
    }
    with rap("serve", "silent:server", cwd=tmp_path) as process, ExitStack() as stack:
        address = line_with(process, "rap: listening on").split()[-1]
        callers = {
            args: stack.enter_context(rap("call", *args, "--host", address, cwd=tmp_path))
            for args in calls
        }
        for args, is_told in calls.items():
            caller = callers[args]
            if is_told:
                line = line_with(caller, "rap: ")
                assert line == (
                    f"rap: {args[0]} has sent nothing for 5 s; --timeout SECONDS would limit that,"
                    " and Ctrl-C ends it\n"
                )
            elif "--timeout" in args:
                said = caller.communicate(timeout=PATIENCE)[0]
                assert said.startswith("Error: DEADLINE_EXCEEDED")
        caller = callers["one",]
        interrupt(caller)
        assert caller.communicate(timeout=PATIENCE)[0] == "1\n"


@pytest.fixture
def forever(tmp_path: Path) -> Path:
    (tmp_path / "forever.py").write_text(PROGRAM)
    return tmp_path


def test_it_prints_nothing_after_ctrl_c_or_a_closed_pipe(forever: Path) -> None:
    with rap("serve", "forever:server", cwd=forever) as process:
        address = line_with(process, "rap: listening on").split()[-1]
        for end in ("leave", "interrupt"):
            with subprocess.Popen(
                [sys.executable, "-W", "error", "-c", RUNNER, "call", "forever", "--host", address],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=ROOT,
            ) as caller:
                assert caller.stdout is not None
                assert caller.stderr is not None
                assert caller.stdout.readline() == b"0\n"
                if end == "leave":
                    caller.stdout.close()
                else:
                    caller.send_signal(signal.SIGINT)
                    caller.stdout.read()
                said = caller.stderr.read()
                assert (caller.wait(PATIENCE), said) == (1 if end == "leave" else 130, b"")
