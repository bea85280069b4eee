"""Mistakes with registries and names of services."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rap import Client, Server
from tests.loopback import LOOPBACK, eventually
from tests.mistakes.catalogue import Scene, mistake
from tests.ports import free_address
from tests.redis_server import HOW_TO_GET_ONE, RedisServer, find_redis_server


@contextmanager
def _redis() -> Iterator[RedisServer]:
    if find_redis_server() is None:
        pytest.skip(HOW_TO_GET_ONE)
    with TemporaryDirectory(prefix="rap-") as name, RedisServer(Path(name)) as server:
        yield server


async def _call(registry: str, service: str = "shop", **options: Any) -> Any:
    options = {"wait_for_ready": False, "connect_timeout": 1, **options}
    client = Client(service=service, registry=registry, **options)
    try:
        await client.raw_call("price")
    finally:
        await client.close()


@mistake(
    "the scheme of the registry is misspelled",
    3,
    what="unknown scheme 'reddis'",
    where="registry 'reddis://localhost",
    remedy="did you mean redis://?",
)
def misspelled_scheme(scene: Scene) -> Any:
    Client(service="shop", registry="reddis://localhost:6379")


@mistake(
    "the URL of the registry has one slash",
    3,
    what="it has no '://'",
    where="registry 'rediss:/localhost",
    remedy="a URL has the form scheme://",
)
def one_slash(scene: Scene) -> Any:
    Client(service="shop", registry="rediss:/localhost:6379")


@mistake(
    "the URL of the registry has an unknown option",
    3,
    what="unknown option 'namespce'",
    where="registry 'redis://localhost",
    remedy="see docs/discovery.md",
)
def unknown_url_option(scene: Scene) -> Any:
    Client(service="shop", registry="redis://localhost:6379?namespce=prod")


@mistake(
    "the database in the URL of Redis is a name",
    3,
    what="got 'shop'",
    where="registry 'redis://localhost",
    remedy="db must be a number",
)
def bad_database(scene: Scene) -> Any:
    Client(service="shop", registry="redis://localhost:6379/shop")


@mistake(
    "the directory of the registry is relative",
    3,
    what="got 'shop'",
    where="registry 'file://shop'",
    remedy="the directory must be absolute, file:///directory",
)
def relative_folder(scene: Scene) -> Any:
    Client(service="shop", registry="file://shop")


@mistake(
    "Redis is down: what a client sees",
    3,
    what="the registry has not answered",
    where="Redis at redis://127.0.0.1:<port>",
    remedy="does a Redis server run there?",
)
async def redis_down(scene: Scene) -> Any:
    await _call(f"redis://{free_address()}")


@mistake(
    "Redis is down: what a server logs",
    3,
    what="is not registered",
    where="Redis at redis://127.0.0.1:<port>",
    remedy="does a Redis server run there?",
)
async def redis_down_server(scene: Scene) -> Any:
    server = Server(LOOPBACK, service="shop", registry=f"redis://{free_address()}")
    async with server:
        await eventually(lambda: scene.logged("registry") or scene.logged("redis"))
    return scene.log


@mistake(
    "the password of Redis is wrong",
    3,
    what="invalid username-password pair",
    where="Redis at redis://127.0.0.1:<port>",
    remedy="are user and password of the URL right?",
)
async def wrong_password(scene: Scene) -> Any:
    with _redis() as redis:
        redis.command("CONFIG", "SET", "requirepass", "right")
        try:
            await _call(redis.url.replace("redis://", "redis://:wrong@"))
        finally:
            redis.command("AUTH", "right")


@mistake(
    "no server is registered",
    3,
    what="no server of service 'shop'",
    where="(file://<folder>, namespace 'default')",
    remedy="start a server with service='shop' and this registry",
)
async def nothing_registered(scene: Scene) -> Any:
    await _call(f"file://{scene.folder}")


@mistake(
    "the name of the service is misspelled",
    3,
    what="no server of service 'shpo'",
    where="(file://<folder>, namespace 'default')",
    remedy="did you mean 'shop'?",
)
async def misspelled_service(scene: Scene) -> Any:
    registry = f"file://{scene.folder}"
    async with Server(LOOPBACK, service="shop", registry=registry, drain_delay=0):
        await _call(registry, "shpo")


@mistake(
    "the folder of the registry is writable for all users",
    3,
    what="is writable for all users",
    where="<folder>",
    remedy="use a folder to which only you and root may write",
)
async def open_folder(scene: Scene) -> Any:
    os.chmod(scene.folder, 0o777)
    registry = f"file://{scene.folder}"
    async with Server(LOOPBACK, service="shop", registry=registry, drain_delay=0):
        return scene.log


@mistake(
    "the namespaces of client and server differ",
    3,
    what="no server of service 'shop'",
    where="namespace 'prod'",
    remedy="start a server with service='shop' and this registry",
)
async def other_namespace(scene: Scene) -> Any:
    registry = f"file://{scene.folder}"
    async with Server(LOOPBACK, service="shop", registry=registry, drain_delay=0):
        await _call(f"{registry}?namespace=prod")


@mistake(
    "memory:// is used in another process than that of the server",
    3,
    what="no server of service 'shop'",
    where="memory:// has the servers of this process alone",
    remedy="for others use file:// or redis://",
)
async def memory_elsewhere(scene: Scene) -> Any:
    await _call("memory://")


@mistake(
    "a server is to register in a fixed list",
    3,
    what="none can register there",
    where="registry 'static://localhost",
    remedy="use file:// or redis://, or no registry",
)
def static_registry(scene: Scene) -> Any:
    Server(LOOPBACK, service="shop", registry="static://localhost:9000")


@mistake(
    "the name of the service has a slash",
    3,
    what="got 'shop/prices'",
    where="service",
    remedy="must match [A-Za-z0-9]",
)
def bad_service_name(scene: Scene) -> Any:
    Server(LOOPBACK, service="shop/prices", registry="memory://")


@mistake(
    "the picker is misspelled",
    3,
    what="got 'round-robin'",
    where="picker",
    remedy="must be one of p2c",
)
def misspelled_picker(scene: Scene) -> Any:
    Client("localhost:9000", picker="round-robin")


@mistake(
    "the client names another service than the server at the address has",
    3,
    what="serves 'shop', not 'stock'",
    where="127.0.0.1:<port> serves",
    remedy="does another server run there?",
)
async def other_service(scene: Scene) -> Any:
    async with Server(LOOPBACK, service="shop", registry="memory://", drain_delay=0) as server:
        client = Client(
            service="stock",
            registry=f"static://{server.addresses[0]}",
            wait_for_ready=False,
            connect_timeout=1,
        )
        try:
            await client.raw_call("price")
        finally:
            await client.close()


@mistake(
    "the registration is signed with another key",
    3,
    what="ignored 1",
    where="registry lists none (file://<folder>",
    remedy="which are not signed with registry_key",
)
async def other_key(scene: Scene) -> Any:
    registry = f"file://{scene.folder}"
    options: dict[str, Any] = {"service": "shop", "registry": registry, "drain_delay": 0}
    async with Server(LOOPBACK, registry_key=b"a" * 32, **options):
        await _call(registry, registry_key=b"b" * 32)


_ = (asyncio, sys)
