"""`rap ls`: services and instances of registries, functions of servers."""

import json
from pathlib import Path

import pytest

from rap.address import Address
from rap.registry import Endpoint
from rap.registry.base import WIRE_VERSIONS
from rap.registry.file import FileRegistry
from rap.registry.records import to_record
from rap.registry.redis import RedisRegistry
from rap.registry.url import registry_from_url
from rap.server import Server
from rap.wire.codec import pack
from tests.cli.shop import invoke, shop
from tests.redis_server import RedisServer


async def test_the_functions_of_a_server_are_listed_to_clients_on_its_machine() -> None:
    async with shop() as server:
        result = await invoke(server, "ls")
        entries = json.loads((await invoke(server, "ls", "--json")).stdout)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["GROUP", "FUNCTION", "STREAM", "TYPE", "PRIVATE"]
    assert ["back", "hidden()", "->", "str", "function", "yes"] in lines
    assert {
        "group": "default",
        "function": "count(n: int) -> collections.abc.AsyncIterator[int]",
        "stream_type": "generator",
        "private": False,
    } in entries
    assert [entry["stream_type"] for entry in entries].count("channel") == 5


async def test_clients_on_other_machines_get_an_explanation(remote_peers: None) -> None:
    async with shop() as server:
        result = await invoke(server, "ls")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: the server lists its functions only to clients on its own machine: run rap there\n"
    )


async def test_services_and_instances_of_a_directory(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    where = ("--registry", url, "--namespace", "lab")
    async with (
        shop(service="shop", registry=f"{url}?namespace=lab", weight=3, zone="a") as one,
        shop(service="shop", registry=f"{url}?namespace=lab") as two,
    ):
        assert (await invoke(None, "ls", *where)).stdout == "SERVICE\nshop\n"
        assert json.loads((await invoke(None, "ls", *where, "--json")).stdout) == [
            {"service": "shop"}
        ]
        table = (await invoke(None, "ls", *where, "--service", "shop")).stdout
        rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
        assert rows["ADDRESS"] == ["STATE", "WEIGHT", "ZONE", "WIRE", "INCARNATION"]
        assert rows[address_of(one)][:4] == ["up", "3", "a", "1"]
        assert rows[address_of(two)][:3] == ["up", "1", "1"]
        await two.set_serving(False)
        entries = json.loads(
            (await invoke(None, "ls", *where, "--service", "shop", "--json")).stdout
        )
        states = {entry["address"]: entry["state"] for entry in entries}
        assert states == {address_of(one): "up", address_of(two): "draining"}
        none = await invoke(None, "ls", *where, "--service", "none")
        assert (none.stdout, none.exit_code) == ("", 0)
        assert none.stderr == (
            "the registry lists no instance of the service none; it lists shop\n"
        )


async def test_an_empty_registry_says_that_it_is_empty(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    services = await invoke(None, "ls", "--registry", url)
    assert (services.stdout, services.stderr) == ("", "the registry lists no service\n")
    assert (await invoke(None, "ls", "--registry", url, "--json")).stdout == "[]\n"
    shops = await invoke(None, "ls", "--registry", url, "--service", "shop")
    text = "no instance of the service shop; it lists no service"
    assert f"{text} (file://{tmp_path}, namespace 'default'); start" in shops.stderr


def address_of(server: Server) -> str:
    return str(server.addresses[0])


async def test_redis_has_services_versions_and_loads(
    redis_single: RedisServer,
    namespace: str,
) -> None:
    registry = RedisRegistry(redis_single.url, namespace=namespace)
    endpoint = Endpoint("h:1", Address.parse("h:1"), incarnation="x", metadata={"version": "1.2"})
    where = ("--registry", redis_single.url, "--namespace", namespace)
    try:
        await registry.register("shop", endpoint, ttl=60)
        registry.report_load("shop", "h:1", {"in_flight": 3, "rps": 12.5})
        await registry.register("shop", endpoint, ttl=60)
        assert (await invoke(None, "ls", *where)).stdout == "SERVICE\nshop\n"
        table = (await invoke(None, "ls", *where, "--service", "shop")).stdout.splitlines()
    finally:
        await registry.aclose()
    assert table[1].split() == ["h:1", "up", "1", "1.2", "x", "in_flight=3", "rps=12.5"]


async def test_what_someone_has_forged_in_redis_ends_no_command(
    redis_single: RedisServer, namespace: str
) -> None:
    registry = RedisRegistry(redis_single.url, namespace=namespace)
    where = ("--registry", redis_single.url, "--namespace", namespace)
    keys = f"rap:{{{namespace}/shop}}"
    record = pack(to_record(Endpoint("h:1", Address.parse("h:1"))))
    try:
        await registry.register("shop", Endpoint("h:1", Address.parse("h:1")), ttl=60)
        redis_single.command("HSET", f"{keys}:inst", b"\xff\xfe", record, "h:2", b"\xc1")
        redis_single.command("HSET", f"{keys}:load", b"\xff", b"\x80", "h:1", b"\xc1")
        redis_single.command("SADD", "rap:services", f"{namespace}/".encode() + b"\xff\x1b[2J")
        services = await invoke(None, "ls", *where)
        shops = await invoke(None, "ls", *where, "--service", "shop")
        others = await invoke(None, "ls", *where, "--service", "none")
    finally:
        redis_single.command("SREM", "rap:services", f"{namespace}/".encode() + b"\xff\x1b[2J")
        await registry.aclose()
    assert (services.exit_code, services.stdout) == (0, "SERVICE\nshop\n")
    assert [line.split()[0] for line in shops.stdout.splitlines()] == ["ADDRESS", "h:1"]
    assert others.stderr.endswith("it lists shop\n")


async def test_the_address_is_the_one_that_clients_dial(
    redis_single: RedisServer, namespace: str
) -> None:
    registry = RedisRegistry(redis_single.url, namespace=namespace)
    where = ("--registry", redis_single.url, "--namespace", namespace, "--service", "shop")
    try:
        await registry.register("shop", Endpoint("h:1", Address.parse("h:1")), ttl=60)
        await registry.register("shop", Endpoint("h:2", Address.parse("evil:7")), ttl=60)
        table = (await invoke(None, "ls", *where)).stdout.splitlines()
    finally:
        await registry.aclose()
    assert table[0].split()[:3] == ["ADDRESS", "REGISTERED", "AS"]
    assert [line.split()[:2] for line in table[1:]] == [["h:1", "up"], ["evil:7", "h:2"]]


async def test_an_instance_without_a_version_of_the_protocol_in_common_is_incompatible(
    tmp_path: Path,
) -> None:
    url = f"file://{tmp_path}"
    registry = registry_from_url(url)
    assert isinstance(registry, FileRegistry)
    for number, versions in enumerate(["1", "1-2", "2-3", "x"]):
        address = Address.parse(f"h:{number}")
        endpoint = Endpoint(str(address), address, metadata={WIRE_VERSIONS: versions})
        await registry.register("shop", endpoint, ttl=60)
    result = await invoke(None, "ls", "--registry", url, "--service", "shop", "--json")
    await registry.aclose()
    assert [(each["wire"], each["state"]) for each in json.loads(result.stdout)] == [
        ("1", "up"),
        ("1-2", "up"),
        ("2-3", "incompatible"),
        ("x", "up"),
    ]


async def test_a_fixed_list_has_instances_but_no_services() -> None:
    where = ("--registry", "static://h1:1,h2:2;weight=5")
    result = await invoke(None, "ls", *where)
    assert result.stderr == (
        "Error: a registry static:// keeps no list of services; give --service\n"
    )
    table = (await invoke(None, "ls", *where, "--service", "any")).stdout
    assert table == "ADDRESS  STATE  WEIGHT\nh1:1     up          1\nh2:2     up          5\n"


async def test_a_registry_that_does_not_answer_fails_the_command() -> None:
    where = ("--registry", "redis://127.0.0.1:1", "--timeout", "0.2")
    result = await invoke(None, "ls", *where)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: the registry ")
    result = await invoke(None, "ls", *where, "--service", "shop")
    assert result.stderr.startswith("Error: the registry did not answer in 0.2 s")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--registry", "x://h"], "--registry 'x://h': unknown scheme 'x'"),
        (["--registry", "memory://", "--service", "a b"], "--service must match"),
    ],
)
async def test_a_wrong_option_is_named(args: list[str], said: str) -> None:
    result = await invoke(None, "ls", *args)
    assert said in result.stderr
    assert result.exit_code == 2
