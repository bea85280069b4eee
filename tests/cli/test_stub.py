"""`rap stub`: the module is typed, clean, and works with the server that it was written for."""

import ast
import asyncio
import datetime
import decimal
import importlib.util
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rap.cli.command import Failed
from rap.cli.stubgen.module import stub_module
from rap.client import Channel, Client
from rap.client.sync import SyncChannel
from rap.errors import InvalidArgument
from rap.schema.markers import is_marked
from tests.cli import typed_shop
from tests.cli.programs import ROOT
from tests.cli.shop import invoke, shop
from tests.client import threaded
from tests.loopback import serving

TARGET = "tests.cli.typed_shop:server"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the stubs of the typed shop."""
    file = tmp_path_factory.mktemp("stub") / "typed_stub.py"
    result = asyncio.run(invoke(None, "stub", TARGET, "-o", str(file)))
    assert (result.output, result.exit_code) == ("", 0)
    return file


@pytest.fixture(scope="module")
def sync_path(path: Path) -> Path:
    """Return the stubs of the typed shop for a `SyncClient`."""
    file = path.with_name("sync_stub.py")
    result = asyncio.run(invoke(None, "stub", TARGET, "--sync", "-o", str(file)))
    assert (result.output, result.exit_code) == ("", 0)
    return file


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stubs(path: Path) -> ModuleType:
    return imported(path)


@pytest.fixture(scope="module")
def sync_stubs(sync_path: Path) -> ModuleType:
    return imported(sync_path)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serving() as server:
        for handler in typed_shop.server.handlers:
            if handler.group != "registry":
                server.register(handler.func, handler.name, handler.group)
        async with Client(str(server.addresses[0])) as client:
            yield client


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--strict", "--python-version", "3.11"],
        ["ruff", "check", "--isolated"],
        ["ruff", "check", "--isolated", "--select", "E,F,W,I,UP,B,C4,G,ASYNC,PERF,PT,RUF,D1"],
        ["ruff", "format", "--isolated", "--check"],
    ],
)
def test_the_stubs_pass_the_type_checker_and_the_linter(
    command: list[str], path: Path, sync_path: Path
) -> None:
    found = subprocess.run(
        [sys.executable, "-m", *command, str(path), str(sync_path)],
        cwd=path.parent if command[0] == "ruff" else ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def test_the_stubs_pass_pyright_in_strict_mode(path: Path, sync_path: Path) -> None:
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    config = {
        "include": [path.name, sync_path.name],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
    }
    project = path.with_name("pyrightconfig.json")
    project.write_text(json.dumps(config))
    found = subprocess.run(
        [sys.executable, "-m", "pyright", "-p", str(project), "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    if "errors, " not in found.stdout:
        pytest.skip(f"pyright cannot run here: {found.stdout or 'it needs Node.js'}")
    assert found.returncode == 0, found.stdout


async def test_a_running_server_gives_the_same_stubs_as_its_program(path: Path) -> None:
    async with shop() as server:
        live = await invoke(server, "stub")
        with_private = await invoke(server, "stub", "--private", "--group", "back")
    assert "    async def add(self, a: int, b: int = 1) -> int:\n" in live.stdout
    assert "hidden" not in live.stdout
    assert "    async def hidden(self) -> str:\n" in with_private.stdout
    assert "Idempotent: " in with_private.stdout
    assert "    @idempotent\n    async def hidden(" in with_private.stdout
    assert "def add" not in with_private.stdout
    written = path.read_text()  # noqa: ASYNC240  # a small file
    async with typed_shop.server as server:
        assert (await invoke(server, "stub")).stdout == written


@pytest.mark.parametrize("other", ["other", "idempotent"])
def test_a_function_that_is_idempotent_on_the_server_is_so_on_a_client(other: str) -> None:
    """Whatever the other functions are called."""
    text = stub_module([described(func_name=other), described(func_name="safe", idempotent=True)])
    module: dict[str, Any] = {}
    exec(text, module)
    group = module["DefaultGroup"]
    assert is_marked(group.safe)
    assert not is_marked(getattr(group, other))


async def test_every_type_can_be_sent_and_returned(client: Client, stubs: Any) -> None:
    calls = client.bind(stubs.DefaultGroup)
    item = stubs.Item(name="hat", made=datetime.date(2021, 2, 3), tags=["a"], uuid=uuid.UUID(int=1))
    now = datetime.datetime(2021, 2, 3, 4, 5, tzinfo=datetime.UTC)
    await calls.plain(True, 1, 1.5, "x", b"y")
    assert await calls.bare([1], {"a": 1}, (1, "b"), {3}) == [[1], {"a": 1}, [1, "b"], [3], None]
    assert await calls.nested({"a": [(1, 2)]}, e=frozenset({1})) == {"a": [(1, 2)]}
    assert await calls.older(None, []) == {"a": 0}
    assert await calls.literal("it's") == "it's"
    moments = (now, now.date(), datetime.time(1, 2), datetime.timedelta(seconds=3))
    assert await calls.times(*moments) == moments
    numbers = (decimal.Decimal("1.10"), uuid.UUID(int=7))
    assert await calls.numbers(*numbers) == numbers
    assert await calls.enums(stubs.Color.BLUE) == (stubs.Color.BLUE, stubs.Size.M, stubs.Day.MON)
    assert await calls.item(item, stubs.Point(x=1.0)) == item
    assert await calls.row({"a": 1, "b": item}) == {"a": 1, "b": item}
    assert await calls.row({"a": 1}, {"class": 1, "two words": "x"}) == {"a": 1}
    assert await calls.pair(stubs.Pair(1)) == stubs.Pair(1, 0.5)
    node = stubs.Node(value=1, left_side=stubs.Node(value=2), items=[item])
    assert await calls.tree(node) == node
    assert await calls.tree(stubs.Leaf()) == stubs.Leaf(size=stubs.Size.S)
    assert await calls.page(stubs.PageItem(rows=[item])) == stubs.PageInt(rows=[1])
    assert await calls.model(stubs.Model(name="m", item=item)) == stubs.Model(name="m", item=item)
    assert await calls.kinds(1, 2, 3, c=4, d=5) == [1, 2, 3, 4, 5]
    assert await calls.only_named(a_parameter_with_a_long_name=1) == 1
    with pytest.raises(InvalidArgument, match="'b'"):
        await calls.older(1, "no list")


async def test_generators_channels_and_awkward_names_work(client: Client, stubs: Any) -> None:
    calls = client.bind(stubs.DefaultGroup)
    assert [each.name async for each in calls.items(2)] == ["0", "1"]
    assert [each async for each in calls.numbers_in_turn(2)] == [0, 1]
    assert [each async for each in calls.anything()] == [1]

    async def ask(channel: Channel) -> Any:
        await channel.write("x")
        return await channel.read_body()

    assert await stubs.talk(client, ask) == ["x"]
    assert await stubs.awkward_names_talk(client, ask) == ["x"]
    awkward = client.bind(stubs.AwkwardNamesGroup)
    assert await awkward.list(2) == [0, 1]
    assert await awkward.int(1) == [0]


async def test_request_streams_and_channels_have_types(client: Client, stubs: Any) -> None:
    calls = client.bind(stubs.DefaultGroup)
    items = [stubs.Pair(1), stubs.Pair(2)]

    async def each() -> AsyncIterator[Any]:
        for item in items:
            yield item

    assert await calls.upload("xy", items) == 4
    assert await calls.upload("xy", each(), limit=1) == 3
    assert await calls.total([1, 2, 3]) == 6
    assert [each async for each in calls.doubled([1, 2], by=3)] == [3, 6]

    async def ask(channel: Channel) -> str:
        await channel.write(items[0])
        return str(await channel.read_body())

    async def tell(channel: Channel) -> None:
        for item in items:
            await channel.write(item)

    assert await stubs.chat(client, ask, "tea", 1, client=2) == "tea 1 [1, 2]"
    assert await stubs.chat(client, tell, "tea") == items[1]

    async def count(channel: Channel) -> None:
        await channel.write(1)

    assert await stubs.tally(client, count, step=5) == 5
    assert await stubs.relay(client, count) == [1]


def test_stubs_for_a_client_without_asyncio_make_calls_of_each_shape(sync_stubs: Any) -> None:
    functions = [each for each in typed_shop.server.handlers if each.group != "registry"]
    with threaded.serving() as server, threaded.calling(server) as client:
        for handler in functions:
            server.register(handler.func, handler.name, handler.group)
        calls = client.bind(sync_stubs.DefaultGroup)
        items = [sync_stubs.Pair(1), sync_stubs.Pair(2)]
        assert calls.literal("it's") == "it's"
        assert [each.name for each in calls.items(2)] == ["0", "1"]
        assert calls.upload("xy", items) == 4
        assert calls.upload("xy", iter(items), limit=1) == 3
        assert [*calls.doubled([1, 2], by=3)] == [3, 6]
        assert client.bind(sync_stubs.AwkwardNamesGroup).list(2) == [0, 1]

        def ask(channel: SyncChannel) -> str:
            channel.write(items[0])
            return str(channel.read_body())

        def tell(channel: SyncChannel) -> None:
            for item in items:
                channel.write(item)

        assert sync_stubs.chat(client, ask, "tea", 1, client=2) == "tea 1 [1, 2]"
        assert sync_stubs.chat(client, tell, "tea") == items[1]


CALLER = """
from collections.abc import AsyncIterator

from rap.client import Channel, Client
from typed_stub import DefaultGroup, Pair, chat, relay, tally


async def rows() -> AsyncIterator[Pair]:
    yield Pair(1)


async def ask(channel: Channel[str, Pair]) -> bytes:
    await channel.write(Pair(1))
    return (await channel.read_body()).encode()


async def tell(channel: Channel[str, Pair]) -> None:
    await channel.end()


async def count(channel: Channel[object, int]) -> None:
    await channel.write(1)


async def main(client: Client) -> None:
    calls = client.bind(DefaultGroup)
    reveal_type(await calls.upload("x", rows()))
    reveal_type(await calls.upload("x", [Pair(1)]))
    async for number in calls.doubled([1]):
        reveal_type(number)
    reveal_type(await chat(client, ask, "tea"))
    reveal_type(await chat(client, tell, "tea"))
    reveal_type(await tally(client, count))
    reveal_type(await relay(client, count))
    await calls.upload("x", ["a"])
    await chat(client, count, "tea")
"""


SYNC_CALLER = """
from rap import SyncChannel, SyncClient, with_options
from sync_stub import DefaultGroup, Pair, chat, tally


def ask(channel: SyncChannel[str, Pair]) -> bytes:
    channel.write(Pair(1))
    return channel.read_body().encode()


def count(channel: SyncChannel[object, int]) -> None:
    channel.write(1)


def main(client: SyncClient) -> None:
    calls = client.bind(DefaultGroup)
    reveal_type(calls.upload("x", [Pair(1)]))
    reveal_type(with_options(calls.upload, timeout=3)("x", [Pair(1)]))
    for number in calls.doubled([1]):
        reveal_type(number)
    reveal_type(chat(client, ask, "tea"))
    reveal_type(tally(client, count))
    calls.upload("x", ["a"])
    chat(client, count, "tea")
"""


@pytest.mark.parametrize("caller", [CALLER, SYNC_CALLER], ids=["async", "sync"])
def test_type_checkers_see_items_messages_and_results(
    caller: str, path: Path, sync_path: Path, tmp_path: Path
) -> None:
    (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / sync_path.name).write_text(sync_path.read_text())
    (tmp_path / "caller.py").write_text(caller)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", "caller.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [
        line.partition(": ")[2]
        for line in found.stdout.splitlines()
        if line.startswith("caller.py:")
    ]
    expected = {
        CALLER: [
            "int",
            "int",
            "int",
            "bytes",
            "tuple[int, float, fallback=typed_stub.Pair] | None",
            "int",
            "Any",
        ],
        SYNC_CALLER: ["int", "int", "int", "bytes", "int"],
    }
    assert [each.split('"')[1] for each in lines if "Revealed" in each] == expected[caller]
    errors = [line for line in lines if line.startswith("error")]
    assert len(errors) == 2
    assert "list item" in errors[0].lower()


@pytest.mark.parametrize(
    ("args", "said", "status"),
    [
        ([TARGET, "--group", "none"], "there is no function in the group none", 1),
        (["nowhere:server"], "'MODULE:SERVER': 'nowhere:server': there is no module", 2),
        ([TARGET, "-o", "/nowhere/x.py"], "'--output': cannot write /nowhere/x.py", 2),
    ],
)
async def test_an_impossible_request_is_named(args: list[str], said: str, status: int) -> None:
    result = await invoke(None, "stub", *args)
    assert said in result.stderr
    assert (result.stderr.count("\n"), result.exit_code) == (1, status)


async def test_clients_on_other_machines_get_an_explanation(remote_peers: None) -> None:
    async with shop() as server:
        result = await invoke(server, "stub")
    assert "only to clients on its own machine" in result.stderr


def described(**changes: Any) -> dict[str, Any]:
    return {
        "group": "default", "func_name": "f", "shape": "unary", "doc": "", "is_private": False,
        "idempotent": False, "parameters": [], "returns": "None", "types": [], **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"func_name": 'f"); import os; ("'},
        {"func_name": "f\nimport os"},
        {"doc": '"""\nimport os\n"""'},
        {"doc": "\\"},
        {"doc": 'x"'},
        {"group": '"); import os; ("'},
        {"group": "a\nimport os"},
        {"shape": "channel", "func_name": '"\nimport os\n"'},
        {"shape": "channel", "group": "'\\"},
    ],
)
def test_no_text_of_a_server_becomes_code(changes: dict[str, Any]) -> None:
    try:
        text = stub_module([described(**changes)])
    except Failed:
        return
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    assert "os" not in {alias.name for node in imports for alias in node.names}


def test_a_default_is_its_expression_and_nothing_else() -> None:
    member = {"name": "RED", "type": "", "default": "1"}
    color = {"name": "Color", "origin": "a:Color", "kind": "enum", "options": {}}
    given = {"name": "a", "kind": "", "type": "Color", "default": "Color.RED  # and so on"}
    text = stub_module([described(parameters=[given], types=[{**color, "fields": [member]}])])
    assert "async def f(self, a: Color = Color.RED) -> None:" in text
    ast.parse(text)


def test_equal_names_of_different_types_are_told_apart() -> None:
    def item(origin: str, kind: str) -> dict[str, Any]:
        field = {"name": "a", "type": kind, "default": None}
        return {
            "name": "Item", "origin": origin, "kind": "dataclass", "options": {}, "fields": [field],
        }  # fmt: skip

    one = described(func_name="f", returns="Item", types=[item("a:Item", "int")])
    two = described(func_name="g", returns="list[Item]", types=[item("b:Item", "str")])
    again = described(func_name="h", returns="Item", types=[item("a:Item", "int")])
    text = stub_module([one, two, again])
    assert "async def f(self) -> Item:" in text
    assert "async def g(self) -> list[Item2]:" in text
    assert "async def h(self) -> Item:" in text
    assert text.count("\nclass Item") == 2
