"""Mistakes with registries and names of services."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rap import Client, Server
from tests.loopback import LOOPBACK
from tests.mistakes.catalogue import Scene, mistake
from tests.redis_server import RedisServer


@contextmanager
def _redis() -> Iterator[RedisServer]:
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
    remedy="known are memory://, file://",
)
def misspelled_scheme(scene: Scene) -> Any:
    Client(service="shop", registry="reddis://localhost:6379")


@mistake(
    "the URL of the registry has a user without password",
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


_ = (asyncio, sys)
