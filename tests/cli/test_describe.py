"""`rap describe`: one function with all types that it uses."""

import json
from typing import Any

import pytest

from rap.cli.command import Failed
from rap.cli.stubgen.annotations import Annotations
from rap.cli.stubgen.declarations import declare, parameters
from tests.cli import typed_shop
from tests.cli.shop import invoke, shop
from tests.loopback import serving


@pytest.mark.parametrize("name", ["item", "default/item"])
async def test_a_function_is_described_with_its_types(name: str) -> None:
    async with shop() as server:
        result = await invoke(server, "describe", name)
    assert result.stdout == (
        "item(name: str) -> Item\n\n"
        "  group       default\n"
        "  stream type function\n"
        "  idempotent  no\n"
        "  private     no\n\n"
        "@dataclass\n"
        "class Item:\n"
        "    name: str\n"
        "    price: float = 1.5\n"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["add"], "  Add two numbers.\n\n  Both are whole.\n"),
        (["show"], 'show(value: Any, *, mark: str = "") -> Any\n'),
        (["count"], "count(n: int) -> AsyncIterator[int]\n"),
        (["shout"], "  stream type channel\n"),
        (["hidden", "--group", "back"], "  idempotent  yes\n  private     yes\n"),
        (["describe", "--group", "registry"], "class FunctionDescription(TypedDict):\n"),
    ],
)
async def test_the_description_has_every_detail(args: list[str], said: str) -> None:
    async with shop() as server:
        result = await invoke(server, "describe", *args)
    assert said in result.stdout
    assert result.exit_code == 0


async def test_json_has_the_whole_description() -> None:
    async with shop() as server:
        found = json.loads((await invoke(server, "describe", "add", "--json")).stdout)
    assert (found["func_name"], found["returns"], found["idempotent"]) == ("add", "int", False)
    assert [each["name"] for each in found["parameters"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nope"], "there is no function nope in the group default"),
        (["hidden"], "there is no function hidden in the group default; there is one with --group"),
    ],
)
async def test_an_unknown_function_is_named(args: list[str], said: str) -> None:
    async with shop() as server:
        result = await invoke(server, "describe", *args)
    assert result.stderr.startswith(f"Error: {said}")
    assert result.exit_code == 1


async def test_clients_on_other_machines_get_an_explanation(remote_peers: None) -> None:
    async with shop() as server:
        result = await invoke(server, "describe", "add")
    assert "only to clients on its own machine" in result.stderr
    assert result.exit_code == 1


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('id')",
        "os.system",
        "int(1)",
        "int if True else str",
        "lambda: 1",
        "Nobody",
        "print",
        "list[__import__]",
        "typing.Literal[print(1)]",
        "f'{1}'",
        "'int'",
        "int; import os",
        "(" * 1000,
        " | ".join(["int"] * 5000),
        "",
    ],
)
def test_an_invalid_type_from_a_server_is_refused(text: str) -> None:
    with pytest.raises(Failed, match="the server describes"):
        Annotations({"Item"}, ()).type(text)


@pytest.mark.parametrize(
    "text", ["print(1)", "Item.__class__.x", "Other.X", "a b", "[1 for _ in ()]"]
)
def test_an_invalid_default_from_a_server_is_refused(text: str) -> None:
    with pytest.raises(Failed, match="the server describes"):
        Annotations({"Item"}, ()).default(text)


async def test_items_and_messages_are_described_with_their_parameter() -> None:
    functions = (typed_shop.upload, typed_shop.chat, typed_shop.items)
    async with serving(*functions) as server:

        async def found(name: str) -> dict[str, Any]:
            result = await invoke(server, "describe", name, "--json")
            return dict(json.loads(result.stdout))

        upload, chat, items = [await found(name) for name in ("upload", "chat", "items")]
        text = (await invoke(server, "describe", "upload")).stdout
    keys = ("shape", "stream_parameter", "channel_parameter", "request", "response", "returns")
    assert [upload[key] for key in keys] == ["client_stream", "rows", None, "Pair", None, "int"]
    assert [chat[key] for key in keys] == [
        "channel", None, "channel", "Pair", "str", "Pair | None",
    ]  # fmt: skip
    assert [items[key] for key in keys[:5]] == ["stream", None, None, None, "Item"]
    assert [each["name"] for each in upload["types"]] == ["Pair"]
    assert text.startswith("upload(name: str, rows: AsyncIterator[Pair], limit: int = 10) -> int")
    assert "  stream type client streaming\n" in text


def a_class(**changes: Any) -> dict[str, Any]:
    field = {"name": "a", "type": "int", "default": None}
    return {"name": "Item", "kind": "dataclass", "options": {}, "fields": [field], **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "code"},
        {"fields": [{"name": "a = print(1) #", "type": "int", "default": None}]},
        {"options": {"frozen": "print(1)"}},
        {"kind": "enum", "options": {"base": "print(1)"}},
        {"kind": "enum", "fields": [{"name": "A", "type": "", "default": "print(1)"}]},
    ],
)
def test_an_invalid_class_from_a_server_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Failed, match="the server describes"):
        declare(a_class(**changes), Annotations({"Item"}, ()))


def test_a_required_parameter_after_an_optional_one_is_keyword_only() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "a", "kind": "positional", "type": "int", "default": None},
        {"name": "b", "kind": "", "type": "int", "default": "1"},
        {"name": "c", "kind": "", "type": "int", "default": "..."},
        {"name": "d", "kind": "", "type": "int", "default": "2"},
        {"name": "e", "kind": "names", "type": "int", "default": None},
    ]
    annotations = Annotations((), ())
    assert parameters(rows, annotations) == [
        "a: int", "/", "b: int = 1", "d: int = 2", "*", "c: int", "**e: int",
    ]  # fmt: skip
    with pytest.raises(Failed, match="a parameter"):
        parameters([{**rows[0], "name": "a b"}], annotations)
