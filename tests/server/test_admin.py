import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from rap.address import Peer
from rap.client import Client
from rap.errors import CallError, Code, InvalidArgument, NotFound, Unimplemented
from rap.server import Channel, Server
from tests.loopback import calling, serving, within


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def count(n: int) -> AsyncIterator[int]:
    yield n


async def talk(channel: Channel) -> None:
    await channel.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(add, count, talk, allow_load=True) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of an importable module, ``loaded_module``."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "loaded_module.py"
    path.write_text("def answer() -> int:\n    return 1\n")
    yield path
    sys.modules.pop("loaded_module", None)


def edit(module: Path, source: str | None) -> None:
    if source is None:
        module.unlink()
    else:
        module.write_text(source)


async def registry(client: Client, method: str, /, *args: Any, **kwargs: Any) -> Any:
    return await client.raw_call(method, *args, group="registry", kwarg_param=kwargs)


async def test_list_returns_the_registered_functions(client: Client) -> None:
    entries = {entry["func_name"]: entry for entry in await registry(client, "list")}
    assert entries["add"] == {
        "group": "default",
        "shape": "unary",
        "func_type": "normal",
        "is_gen_func": False,
        "is_private": False,
        "doc": "Add two numbers.",
        "func_name": "add",
        "module_name": __name__,
        "module_file": __file__,
        "signature": "(a: int, b: int = 1) -> int",
    }
    assert entries["count"]["is_gen_func"]
    assert entries["talk"]["func_type"] == "channel"
    assert entries["list"]["group"] == "registry"
    assert entries["list"]["is_private"]


async def test_describe_returns_one_function(client: Client) -> None:
    found = await registry(client, "describe", "add")
    assert found["parameters"] == [
        {"name": "a", "kind": "", "type": "int", "default": None},
        {"name": "b", "kind": "", "type": "int", "default": "1"},
    ]
    assert (found["returns"], found["shape"], found["types"]) == ("int", "unary", [])
    assert not found["idempotent"]
    assert (await registry(client, "describe", "list", "registry"))["is_private"]
    with pytest.raises(NotFound, match="describe: no function '/default/nobody'"):
        await registry(client, "describe", "nobody")


async def test_load_and_reload_exist_only_where_they_are_allowed() -> None:
    async with serving(add) as server, calling(server) as client:
        names = [entry["func_name"] for entry in await registry(client, "list")]
        assert names == ["list", "describe", "add"]
        for name in ("load", "reload"):
            with pytest.raises(Unimplemented):
                await registry(client, name, "os", "getcwd")


async def test_the_group_is_hidden_from_other_machines(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for conn in server.connection_manager.connections:
        monkeypatch.setattr(conn, "peer", Peer("192.0.2.1", 1))
    for name in ("list", "describe", "load", "reload"):
        with pytest.raises(Unimplemented, match="no function '/registry"):
            await registry(client, name, "os", "getcwd")


async def test_load_makes_a_function_callable(client: Client, module: Path) -> None:
    entry = await registry(client, "load", "loaded_module", "answer", name="one", group="g")
    assert entry["func_name"] == "one"
    assert entry["module_file"] == str(module)
    assert await client.raw_call("one", group="g") == 1


async def test_loading_a_function_twice_is_refused(client: Client, module: Path) -> None:
    await registry(client, "load", "loaded_module", "answer", is_private=True, doc="One.")
    entries = {entry["func_name"]: entry for entry in await registry(client, "list")}
    assert (entries["answer"]["is_private"], entries["answer"]["doc"]) == (True, "One.")
    with pytest.raises(InvalidArgument, match="registered already"):
        await registry(client, "load", "loaded_module", "answer")


async def test_reload_runs_the_changed_source(client: Client, module: Path) -> None:
    await registry(client, "load", "loaded_module", "answer")
    assert await client.raw_call("answer") == 1
    edit(module, "def answer() -> int:\n    return 2\n")  # as long, within a second
    entry = await registry(client, "reload", "loaded_module", "answer", doc="Two.")
    assert entry["doc"] == "Two."
    assert await client.raw_call("answer") == 2


async def test_reload_keeps_options_that_are_not_given(client: Client, server: Server) -> None:
    server.register(add, "plus", is_private=True, inline=True, run_timeout=3.0)
    await registry(client, "reload", __name__, "add", name="plus")
    handler = server._router.find("/default/plus")
    assert handler is not None
    assert (handler.is_private, handler.inline, handler.run_timeout) == (True, True, 3.0)
    assert handler.func is not add


async def test_a_running_call_finishes_with_the_old_function(client: Client, module: Path) -> None:
    source = """
import asyncio
started, go = asyncio.Event(), asyncio.Event()
VALUE = {value}
def value() -> int:
    return VALUE
async def answer() -> int:
    {wait}
    return value()
"""
    edit(module, source.format(value=1, wait="started.set(); await go.wait()"))
    await registry(client, "load", "loaded_module", "answer")
    old = sys.modules["loaded_module"]
    running = asyncio.create_task(client.raw_call("answer"))
    await within(old.started.wait())
    edit(module, source.format(value=2, wait="pass"))
    await registry(client, "reload", "loaded_module", "answer")
    assert await client.raw_call("answer") == 2
    old.go.set()
    assert await within(running) == 1


async def test_a_module_that_cannot_be_run_changes_nothing(client: Client, module: Path) -> None:
    await registry(client, "load", "loaded_module", "answer")
    before = sys.modules["loaded_module"]
    for source, reason in [("1 / 0", "ZeroDivisionError"), ("def", "SyntaxError")]:
        edit(module, source)
        with pytest.raises(CallError, match=reason) as caught:
            await registry(client, "reload", "loaded_module", "answer")
        assert caught.value.code is Code.FAILED_PRECONDITION
    edit(module, "answer = 1")
    with pytest.raises(InvalidArgument, match="is not a function"):
        await registry(client, "reload", "loaded_module", "answer")
    edit(module, "def answer(a):\n    return 2\n")
    with pytest.raises(InvalidArgument, match="no type hint"):
        await registry(client, "reload", "loaded_module", "answer")
    assert await client.raw_call("answer") == 1
    edit(module, None)
    with pytest.raises(CallError, match="cannot import"):
        await registry(client, "reload", "loaded_module", "answer")
    assert sys.modules["loaded_module"].__file__ == before.__file__


async def test_an_error_of_load_names_the_function_and_module(client: Client, module: Path) -> None:
    with pytest.raises(CallError, match="cannot import 'no_such_module'"):
        await registry(client, "load", "no_such_module", "f")
    with pytest.raises(NotFound, match="has no 'f'"):
        await registry(client, "load", "loaded_module", "f")
    with pytest.raises(NotFound, match="load it first"):
        await registry(client, "reload", "loaded_module", "answer")


async def test_a_module_of_a_package_is_reloaded_in_its_package(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "loaded_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text(
        "class Answers:\n    @staticmethod\n    def one() -> int: return 1\n"
    )
    await registry(client, "load", "loaded_package.inner", "Answers.one")
    (package / "inner.py").write_text(
        "class Answers:\n    @staticmethod\n    def one() -> int: return 2\n"
    )
    await registry(client, "reload", "loaded_package.inner", "Answers.one")
    assert await client.raw_call("one") == 2
    loaded = sys.modules["loaded_package"]
    assert loaded.inner is sys.modules["loaded_package.inner"]
    for name in ("loaded_package", "loaded_package.inner"):
        del sys.modules[name]
