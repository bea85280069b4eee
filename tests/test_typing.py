"""What type checkers say of programs that use rap: mypy in strict mode, and pyright.

Each line of `PROGRAM` that is wrong ends with a comment ``# wrong: mypy's code, pyright's rule``.
Without a rule, pyright accepts the line. `test_typed_programs` checks the documented programs.
"""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = '''
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Protocol, assert_type

from rap import Channel, Client, Server, Session, SyncClient, Unavailable, context
from rap import SyncChannel, channel_method, interface, start_call, with_options
from rap.client.sync import SyncSession
from rap import Cleint  # wrong: attr-defined, reportAttributeAccessIssue

client = Client(timeout=3)
Client("localhost:9000", service=None, timeout=None, max_attempts=2, zone="a")
Client(["localhost:9000", "localhost:9001"], picker="prequal", token=lambda: "secret")
Client(timeout="3")  # wrong: arg-type, reportArgumentType
Client(timeuot=3)  # wrong: call-arg, reportCallIssue
Client("localhost:9000", 3)  # wrong: call-arg|misc, reportCallIssue

blocking = SyncClient(timeout=3, registry="memory://", service="calc")
SyncClient(timeout="3")  # wrong: arg-type, reportArgumentType
SyncClient(timeuot=3)  # wrong: call-arg, reportCallIssue

server = Server(timeout=3, middleware_list=[], verify_token="secret")
Server(["localhost:0", "unix:///run/rap.sock"], ssl_crt_path="a.pem", ssl_key_path="b.pem")
Server(timeout="3")  # wrong: arg-type, reportArgumentType
Server(timeuot=3)  # wrong: call-arg, reportCallIssue


class Calling(Client):
    """A subclass takes the same options."""


Calling(timeout=3)
Calling(timeout="3")  # wrong: arg-type, reportArgumentType


@client.register
async def add(a: int, b: int) -> int:
    raise NotImplementedError


@client.register(timeout=3, idempotent=True, hedge=0.1)
async def count(limit: int) -> AsyncIterator[int]:
    yield limit


@client.register
async def upload(name: str, rows: AsyncIterable[int] | Iterable[int]) -> str:
    raise NotImplementedError


@client.register()
async def echo(rows: AsyncIterable[int] | Iterable[int]) -> AsyncIterator[str]:
    yield ""


@client.register
async def chat(channel: Channel[str, str], room: str) -> int:
    await channel.write(room)
    return len(room)


@client.register(timeout=3)
async def typed(channel: Channel[int, str]) -> int:
    await channel.write(1)  # wrong: arg-type, reportArgumentType
    return await channel.read_body()


@server.register
async def tell(channel: Channel[str]) -> None:
    assert_type(await channel.read_body(), str)


@client.register(timeuot=3)  # wrong: call-overload, reportCallIssue
async def misspelt() -> None: ...


client.inject(misspelt, timeuot=3)  # wrong: call-arg, reportCallIssue
client.inject(misspelt, timeout="3")  # wrong: arg-type, reportArgumentType
client.bind(Calling, timeuot=3)  # wrong: call-arg, reportCallIssue
client.bind(Calling, timeout="3")  # wrong: arg-type, reportArgumentType
client.register(timeout="3")  # wrong: call-overload, reportArgumentType


@blocking.register
async def remote(a: int) -> str:
    raise NotImplementedError


@blocking.register("numbers")
async def numbers(limit: int) -> AsyncIterator[int]:
    yield limit


@server.register
def double(value: int) -> int:
    return 2 * value


@server.register(group="math", run_timeout=3)
async def halve(value: int) -> float:
    return value / 2


server.register(double, "twice", idempotent=True)
server.register(double, run_timeout="3")  # wrong: call-overload, reportCallIssue
server.register(double, run_timeuot=3)  # wrong: call-overload, reportCallIssue
server.allow_group("math", {"a"})
server.allow_group("math", alow={"a"})  # wrong: call-arg, reportCallIssue
double("3")  # wrong: arg-type, reportArgumentType


async def use(session: Session, channel: Channel) -> None:
    assert_type(await add(1, 2), int)
    await add("1", 2)  # wrong: arg-type, reportArgumentType
    async for item in count(3):
        assert_type(item, int)
    call = add.start(1, 2)
    assert_type(await call, int)
    print(call.header, call.trailer, call.peer, call.attempts, call.done(), call.cancel())
    add.start("1", 2)  # wrong: arg-type, reportArgumentType
    items = count.start(3)
    async for item in items:
        assert_type(item, int)
    print(items.header, items.trailer, items.peer, items.attempts, items.done(), items.cancel())
    assert_type(await upload("x", [1, 2]), str)
    assert_type(await upload.start("x", count(3)), str)
    await upload("x", ["1"])  # wrong: list-item, reportArgumentType
    async for text in echo(range(3)):
        assert_type(text, str)
    assert_type(await chat("tea"), int)
    await chat(room=1)  # wrong: arg-type, reportArgumentType
    assert_type(await typed(), int)
    async with client.channel("chat", room="tea") as talk, session.channel(chat, "tea") as other:
        await talk.write(other.header)
        await talk.end()
        await other.result()
    await client.raw_call("count", 1, timeout=3, header={"a": 1}, session=session)
    await client.raw_call("count", 1, timeout="3")  # wrong: arg-type, reportArgumentType
    client.iterator_call(count, 1, affinity=3)  # wrong: call-overload, reportCallIssue
    session.channel(chat, "tea", timeout="3")  # wrong: call-overload, reportCallIssue
    assert_type(remote(1), str)
    blocking.raw_call("count", 1, timeout=3, group=None)
    blocking.raw_call("count", 1, timeout="3")  # wrong: arg-type, reportArgumentType
    blocking.call(remote, 1, header=3)  # wrong: call-overload, reportCallIssue
    assert_type(remote.start(1).result(), str)
    remote("1")  # wrong: arg-type, reportArgumentType
    for number in numbers(3):
        assert_type(number, int)
    print(numbers.start(3).header)
    assert_type(double(1), int)
    assert_type(await halve(1), float)
    assert_type(context.request.func_name, str)
    try:
        await client.close()
    except Unavailable as error:
        print(error.code)
    await server.close()
    blocking.close()


class Calc(Protocol):
    async def add(self, a: int, b: int) -> int: ...
    def count(self, limit: int) -> AsyncIterator[int]: ...
    async def upload(self, rows: AsyncIterable[int] | Iterable[int]) -> str: ...
    def echo(self, rows: AsyncIterable[int] | Iterable[int]) -> AsyncIterator[str]: ...
    async def chat(self, channel: Channel[str, int], room: str) -> float: ...
    @channel_method
    async def greet(self, channel: Channel[str, int], room: str) -> bytes:
        await channel.write(len(room))
        await channel.write(room)  # wrong: arg-type, reportArgumentType
        return b""


@interface(group="default")
class Named(Protocol):
    async def add(self, a: int, b: int) -> int: ...


class Body:
    async def add(self, a: int, b: int) -> int: ...  # wrong: empty-body


@interface(group=3)  # wrong: arg-type, reportArgumentType
class Misnamed(Protocol): ...


async def use_interface(session: Session) -> None:
    calc = client.bind(Calc, group="default")
    assert_type(calc, Calc)
    assert_type(client.bind(Named), Named)
    client.bind("Calc")  # wrong: arg-type, reportArgumentType
    client.bind(Calc, groop="default")  # wrong: call-arg, reportCallIssue
    assert_type(await calc.add(1, 2), int)
    await calc.add("1", 2)  # wrong: arg-type, reportArgumentType
    await calc.add(1, 2, timeout=3)  # wrong: call-arg, reportCallIssue
    await calc.ad(1, 2)  # wrong: attr-defined, reportAttributeAccessIssue
    async for number in calc.count(3):
        assert_type(number, int)
    assert_type(await calc.upload([1]), str)
    await calc.upload(["1"])  # wrong: list-item, reportArgumentType
    async for text in calc.echo(calc.count(3)):
        assert_type(text, str)
    assert_type(await calc.greet("tea"), bytes)
    await calc.greet(1)  # wrong: arg-type, reportArgumentType
    async with client.channel(calc.chat, "tea") as talk:
        assert_type(await talk.read_body(), str)
        await talk.write(1)
        await talk.write("1")  # wrong: arg-type, reportArgumentType
        async for each in talk:
            assert_type(each, str)
    async with client.channel(chat, "tea") as told, session.channel(chat, "tea") as other:
        assert_type(await told.read_body(), str)
        await told.write(1)  # wrong: arg-type, reportArgumentType
        assert_type(await other.read_body(), str)
        await other.write(1)  # wrong: arg-type, reportArgumentType
    async with session.channel(calc.chat, "tea") as third:
        assert_type(await third.read_body(), str)
    client.channel(calc.count, 3)  # wrong: arg-type, reportCallIssue
    client.channel(calc.chat, timeout="3")  # wrong: call-overload, reportCallIssue


async def use_options(session: Session, other: SyncSession) -> None:
    calc = client.bind(Calc)
    assert_type(await with_options(calc.add, timeout=3)(1, 2), int)
    await with_options(calc.add, timeout=3)("1", 2)  # wrong: arg-type, reportArgumentType
    await with_options(calc.add, timeout="3")(1, 2)  # wrong: arg-type, reportArgumentType
    await with_options(calc.add, timeuot=3)(1, 2)  # wrong: call-arg, reportCallIssue
    with_options(calc.add(1, 2), timeout=3)  # wrong: type-var, reportArgumentType
    with_options(calc.add, session=session, header={"a": 1}, affinity="a")
    with_options(add, priority="sheddable", wait_for_ready=0.5)
    with_options(add, priority=1)  # wrong: arg-type, reportArgumentType
    with_options(add, header=[1])  # wrong: arg-type, reportArgumentType
    with_options(add, session=3)  # wrong: arg-type, reportArgumentType
    assert_type(await with_options(add, timeout=3)(1, 2), int)
    assert_type(await with_options(add, timeout=3).start(1, 2), int)
    async for number in with_options(calc.count, timeout=3)(2):
        assert_type(number, int)
    assert_type(await with_options(calc.upload, timeout=3)([1]), str)
    assert_type(await with_options(calc.greet, timeout=3)("tea"), bytes)
    assert_type(await with_options(chat, timeout=3)("tea"), int)
    await with_options(chat, timeout=3)(1)  # wrong: arg-type, reportArgumentType
    assert_type(with_options(remote, timeout=3, session=other)(1), str)
    for number in with_options(numbers, timeout=3)(2):
        assert_type(number, int)


async def use_started() -> None:
    calc = client.bind(Calc)
    call = start_call(calc.add, 1, b=2)
    assert_type(await call, int)
    assert_type(call.attempts, int)
    print(call.header, call.trailer, call.peer, call.cancel(), call.done())
    start_call(calc.add, "1", 2)  # wrong: arg-type|call-overload, reportArgumentType
    start_call(calc.add, 1)  # wrong: call-arg|call-overload, reportCallIssue
    start_call(calc.add(1, 2))  # wrong: arg-type|call-overload, reportArgumentType
    assert_type(await start_call(with_options(calc.add, timeout=3), 1, 2), int)
    assert_type(await start_call(add, 1, 2), int)
    assert_type(await start_call(calc.upload, [1]), str)
    items = start_call(calc.count, 3)
    async for number in items:
        assert_type(number, int)
    print(items.header, items.peer)


async def use_functions(session: Session) -> None:
    assert_type(await client.call(add, 1, 2, timeout=3), int)
    assert_type(await client.call(double, 1), int)
    assert_type(await client.call(upload, "x", [1]), str)
    await client.call("add", 1, 2)  # wrong: call-overload, reportCallIssue
    async for number in client.iterator_call(count, 3, timeout=3):
        assert_type(number, int)
    async for each in client.iterator_call("count", 3):
        assert_type(each, Any)
    client.iterator_call(add, 1, 2)  # wrong: arg-type, reportCallIssue
    assert_type(await session.execute(add(1, 2)), int)
    assert_type(await session.execute(add, [1, 2]), int)
    assert_type(await session.execute("add", [1, 2]), Any)
    items = await session.execute(count(3))
    async for number in items:
        assert_type(number, int)
    print(items.header, items.trailer, items.peer, items.attempts, items.done(), items.cancel())
    async for number in await session.execute(count, [3]):
        assert_type(number, int)
    await session.execute(3)  # wrong: call-overload, reportCallIssue


class Blocking(Protocol):
    def add(self, a: int, b: int) -> int: ...
    def count(self, limit: int) -> Iterator[int]: ...
    def upload(self, rows: AsyncIterable[int] | Iterable[int]) -> str: ...
    def chat(self, channel: SyncChannel[str, int], room: str) -> float: ...


@blocking.register
def talk(channel: SyncChannel[int, str], room: str) -> int:
    channel.write(1)  # wrong: arg-type, reportArgumentType
    return channel.read_body()


def use_blocking(session: SyncSession) -> None:
    calc = blocking.bind(Blocking, group="default", timeout=3)
    assert_type(calc.add(1, 2), int)
    calc.add("1", 2)  # wrong: arg-type, reportArgumentType
    for number in calc.count(3):
        assert_type(number, int)
    assert_type(calc.upload([1]), str)
    assert_type(with_options(calc.add, timeout=3)(1, 2), int)
    call = start_call(calc.add, 1, b=2)
    assert_type(call.result(), int)
    print(call.header, call.trailer, call.peer, call.attempts, call.cancel(), call.done())
    assert_type(start_call(remote, 1).result(), str)
    items = start_call(calc.count, 3)
    for number in items:
        assert_type(number, int)
    print(items.header, items.peer)
    assert_type(talk("tea"), int)
    talk(1)  # wrong: arg-type, reportArgumentType
    with blocking.channel(calc.chat, "tea") as told, session.channel(calc.chat, "tea") as other:
        assert_type(told.read_body(), str)
        told.write("1")  # wrong: arg-type, reportArgumentType
        for text in other:
            assert_type(text, str)
    assert_type(blocking.call(double, 1, timeout=3), int)
    assert_type(blocking.call(remote, 1), str)
    for number in blocking.iterator_call(count, 3):
        assert_type(number, int)
    blocking.iterator_call(double, 3)  # wrong: arg-type, reportCallIssue
    assert_type(session.execute(double, [1]), int)
    assert_type(session.execute("double", [1]), Any)
    for number in session.execute(count, [1]):
        assert_type(number, int)
'''
WRONG = [
    {
        number: set(codes[checker].split("|"))
        for number, line in enumerate(PROGRAM.split("\n"), 1)
        if (found := re.search(r"# wrong: (.*)$", line))
        and len(codes := found[1].split(", ")) > checker
    }
    for checker in (0, 1)
]


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def mypy(path: Path) -> dict[int, set[str]]:
    """Return the codes of what mypy finds, by line."""
    output = run("mypy", "--strict", "--hide-error-context", "--no-pretty", str(path))
    found: dict[int, set[str]] = {}
    for line, code in re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]$", output, re.M):
        found.setdefault(int(line), set()).add(code)
    assert found, output
    return found


def pyright(path: Path) -> dict[int, set[str]]:
    """Return the rules of what pyright finds, by line."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    output = run("pyright", "--outputjson", "--pythonpath", sys.executable, str(path))
    try:
        report = json.loads(output)
    except ValueError:
        pytest.skip(f"pyright cannot run here: {output or 'it needs Node.js'}")
    found: dict[int, set[str]] = {}
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            line = each["range"]["start"]["line"] + 1
            found.setdefault(line, set()).add(each.get("rule", each["message"]))
    return found


@pytest.mark.parametrize(("place", "check"), [(0, mypy), (1, pyright)], ids=["mypy", "pyright"])
def test_a_type_checker_accepts_what_is_right_and_refuses_what_is_wrong(
    place: int, check: Callable[[Path], dict[int, set[str]]], tmp_path: Path
) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    found = check(path)
    lines, wrong = PROGRAM.split("\n"), WRONG[place]
    accepted = [f"{line}: {lines[line - 1]}" for line in wrong if line not in found]
    assert not accepted, "accepted, but wrong:\n" + "\n".join(accepted)
    refused = [
        f"{line}: {lines[line - 1]}  {codes}"
        for line, codes in found.items()
        if not codes & wrong.get(line, set())
    ]
    assert not refused, "refused, or with another code:\n" + "\n".join(refused)
