"""The picture of the architecture as a table: imports point down, packages have their place."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RAP = Path(__file__).parents[1] / "rap"

# From the ground up. A row may import the rows below it, and on the ground also what is left of
# it; siblings do not know each other.
FLOORS = [
    ["__init__", "_lazy", "errors", "clock", "address", "call", "options", "notify"],
    ["wire", "redis"],
    ["transport", "registry", "balance", "shared_state"],
    ["schema"],
    ["processor"],
    ["channel"],
    ["client", "server"],
    ["observe"],
    ["gateway", "cli"],
    ["api_gateway"],
]
LEVEL = {unit: (floor, place) for floor, row in enumerate(FLOORS) for place, unit in enumerate(row)}

# Where a package of somebody else may be imported: one file, or the files of one folder.
THIRD_PARTY: dict[str, str | tuple[str, ...]] = {
    "msgpack": "wire/codec.py",
    "msgspec": "schema/",
    "redis": "redis/client.py",
    "Crypto": "processor/encryption/sealing.py",
    "prometheus_client": ("processor/metrics/prometheus.py", "observe/"),
    "opentelemetry": "processor/tracing/opentelemetry.py",
    "opentracing": "processor/tracing/opentracing.py",
    "jaeger_client": "processor/tracing/opentracing.py",
    "starlette": "gateway/",
    "uvicorn": "gateway/",
    "click": "cli/",
    "rich": "cli/",
    "uvloop": "cli/",
}
IMPURE = {"asyncio", "time", "random", "socket", "logging", "ssl", "threading"}  # not in wire


def imported(source: str) -> Iterator[str]:
    """Yield the dotted name of every import, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def unit_of(parts: list[str]) -> str:
    """Return the file or folder of `rap` that a path or dotted name inside it belongs to."""
    return parts[0] if parts and parts[0] in LEVEL else "__init__"


def problems(path: str, source: str) -> Iterator[str]:
    """Yield what is wrong with the imports of a file, its path relative to `rap`."""
    here = unit_of(path.removesuffix(".py").split("/"))
    floor, place = LEVEL[here]
    for name in imported(source):
        top, *rest = name.split(".")
        if top == "rap":
            there = unit_of(rest)
            other_floor, other_place = LEVEL[there]
            left = floor == other_floor == 0 and other_place < place
            if there != here and other_floor >= floor and not left:
                yield f"{path} imports {name}: floor {other_floor} is not below floor {floor}"
        elif top == "":
            yield f"{path} imports {name}: write the name in full"
        elif top in sys.stdlib_module_names:
            if here == "wire" and top in IMPURE:
                yield f"{path} imports {top}: the wire protocol is pure"
        elif not path.startswith(THIRD_PARTY.get(top, "nowhere")):
            yield f"{path} imports {top}: it belongs to {THIRD_PARTY.get(top, 'nowhere')}"


FILES = sorted(path.relative_to(RAP).as_posix() for path in RAP.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_imports_point_down_and_packages_stay_in_their_place(path: str) -> None:
    assert list(problems(path, (RAP / path).read_text())) == []


def test_every_file_has_a_floor() -> None:
    assert {path.removesuffix(".py").split("/")[0] for path in FILES} <= set(LEVEL)


def test_uvloop_is_imported_by_one_file_at_most() -> None:
    users = [path for path in FILES if "uvloop" in set(imported((RAP / path).read_text()))]
    assert len(users) <= 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wire/codec.py", "from rap.transport.stream import Stream"),  # up
        ("balance/p2c.py", "def pick():\n    import rap.registry.base"),  # sideways, inside
        ("client/client.py", "from rap import server"),
        ("errors.py", "from rap.clock import Clock"),  # right
        ("client/client.py", "from . import node"),
        ("wire/protocol.py", "import asyncio"),
        ("wire/frames.py", "from msgpack import packb"),
        ("registry/redis.py", "import redis.asyncio"),
        ("server/server.py", "import requests"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert len(list(problems(path, source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wire/codec.py", "import msgpack\nfrom rap.wire.frames import DATA"),
        ("call.py", "from rap.address import Peer\nfrom rap.clock import NEVER"),
        (
            "cli/commands/serve.py",
            "import asyncio, rich.table\nfrom rap import __version__\nimport rap.server",
        ),
        ("gateway/app.py", "from starlette.applications import Starlette"),
    ],
)
def test_a_right_import_is_allowed(path: str, source: str) -> None:
    assert list(problems(path, source)) == []
