"""The architecture as a test: imports point down without cycles, and modules own their objects."""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.ownership import Assignment, Tree

RAP = Path(__file__).parents[1] / "rap"
SOURCES = {path.relative_to(RAP).as_posix(): path.read_text() for path in RAP.rglob("*.py")}

# The layers of docs/architecture.md, from the lowest to the highest. A file or folder may import
# those of lower layers, but not those of its own layer. In the lowest layer, a file may also import
# the files on its left.
LAYERS = [
    [
        "__init__",
        "_lazy",
        "record",
        "errors",
        "clock",
        "address",
        "call",
        "options",
        "tasks",
        "notify",
    ],
    ["wire", "redis"],
    ["transport", "registry", "balance", "shared_state"],
    ["schema"],
    ["processor"],
    ["channel"],
    ["client", "server"],
    ["observe"],
    ["gateway", "cli"],
    ["api_gateway", "common"],
]
LEVEL = {unit: (layer, place) for layer, row in enumerate(LAYERS) for place, unit in enumerate(row)}

# Where a third-party package may be imported: one file, or the files of one folder.
THIRD_PARTY: dict[str, str | tuple[str, ...]] = {
    "msgpack": "wire/codec.py",
    "msgspec": ("schema/", "record.py"),
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
    "uvloop": "cli/runtime.py",
    "typing_extensions": "channel.py",  # type checkers only; typeshed has it
}
IMPURE = {"asyncio", "time", "random", "socket", "logging", "ssl", "threading"}  # not in wire

# Exceptions to "no module assigns to attributes of objects of other modules". The fields of a class
# in the second table belong to all files of a package.
OPEN = {
    "rap.call.Request.body": "a processor replaces the body",
    "rap.call.Response.body": "a processor replaces the body",
}
RECORDS = {
    "rap.wire.stream.StreamState": "wire/",  # sender and protocol keep one record per stream
    "rap.wire.stream.Outgoing": "wire/",
}


class Import(NamedTuple):
    """One imported module or name.

    Args:
        name: Its dotted name; a relative import begins with a dot.
        is_lazy: Whether a function imports it when it runs.
    """

    name: str
    is_lazy: bool


def imports(node: ast.AST, is_lazy: bool = False) -> Iterator[Import]:
    """Yield every import of a syntax tree, those under ``TYPE_CHECKING`` included."""
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, is_lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (Import(f"{module}.{alias.name}", is_lazy) for alias in node.names)
    is_lazy |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in ast.iter_child_nodes(node):
        yield from imports(child, is_lazy)


def unit_of(parts: list[str]) -> str:
    """Return the file or folder of `rap` that a path or dotted name inside it belongs to."""
    return parts[0] if parts and parts[0] in LEVEL else "__init__"


def wrong_imports(path: str, source: str) -> Iterator[str]:
    """Yield what is wrong with the imports of a file; `path` is relative to `rap`."""
    here = unit_of(path.removesuffix(".py").split("/"))
    if here == "__init__" and path != "__init__.py":
        yield f"{path}: LAYERS does not list it"
        return
    layer, place = LEVEL[here]
    for name, _ in imports(ast.parse(source)):
        top, *rest = name.split(".")
        if top == "rap":
            there = unit_of(rest)
            other_layer, other_place = LEVEL[there]
            left = layer == other_layer == 0 and other_place < place
            if path == "__init__.py":
                pass  # the names that users import from `rap`, loaded on first use
            elif there == "__init__" and rest != ["__version__"]:
                yield f"{path} imports {name}: import it from the module that defines it"
            elif there != here and other_layer >= layer and not left:
                yield f"{path} imports {name}: {there} is not in a lower layer than {here}"
        elif top == "":
            yield f"{path} imports {name}: write the absolute name"
        elif top in sys.stdlib_module_names:
            if here == "wire" and top in IMPURE:
                yield f"{path} imports {top}: wire/ does no I/O and reads no clock"
        elif not path.startswith(THIRD_PARTY.get(top, "nowhere")):
            owner = THIRD_PARTY.get(top)
            reason = f"only {owner} may" if owner else "THIRD_PARTY does not list it"
            yield f"{path} imports {top}: {reason}"


def module_of(path: str) -> str:
    """Return the dotted name of a file, its path relative to `rap`."""
    return ".".join(["rap", *path.removesuffix(".py").split("/")]).removesuffix(".__init__")


def import_cycles(sources: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield one cycle of imports after another, each ending where it began.

    Imports under ``TYPE_CHECKING`` count, imports inside functions do not. A cycle that is yielded
    is cut there, so each module is in a cycle at most as often as it imports.
    """
    modules = {module_of(path): source for path, source in sources.items()}
    graph: dict[str, set[str]] = {}
    for module, source in modules.items():
        names = [each.name for each in imports(ast.parse(source)) if not each.is_lazy]
        found = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = found & modules.keys() - {module}
    finished: set[str] = set()

    def search(trail: list[str]) -> Iterator[list[str]]:
        for module in sorted(graph[trail[-1]] - finished):
            if module in trail:
                yield [*trail[trail.index(module) :], module]
            else:
                yield from search([*trail, module])
        finished.add(trail[-1])

    for module in sorted(graph):
        if module not in finished:
            yield from search([module])


def foreign_assignments(sources: Mapping[str, str]) -> Iterator[tuple[str, Assignment]]:
    """Yield the file and each assignment to an attribute of an object of another module."""
    tree = Tree({module_of(path): source for path, source in sources.items()})
    for path in sorted(sources):
        for each in tree.foreign_assignments(module_of(path)):
            yield path, each


def is_exception(path: str, found: Assignment) -> bool:
    """Whether a table above allows an assignment."""
    in_package = path.startswith(RECORDS.get(found.owner, "nowhere"))
    return in_package or f"{found.owner}.{found.attribute}" in OPEN


def listed(problems: Iterable[object]) -> str:
    """Return problems as lines, for one assertion."""
    return "\n".join(map(str, problems))


def test_imports_point_down_and_packages_stay_in_their_place() -> None:
    found = [each for path in sorted(SOURCES) for each in wrong_imports(path, SOURCES[path])]
    assert not found, listed(found)


def test_every_file_has_a_layer() -> None:
    found = {path.removesuffix(".py").split("/")[0] for path in SOURCES} - set(LEVEL)
    assert not found, f"add to LAYERS of this file and to docs/architecture.md: {sorted(found)}"


def test_no_modules_import_each_other_in_a_cycle() -> None:
    found = [" -> ".join(cycle) for cycle in import_cycles(SOURCES)]
    assert not found, listed(found)


def test_no_module_assigns_to_attributes_of_objects_of_other_modules() -> None:
    found = [
        f"{path}:{each.line}: assigns to {each.target}; give {each.owner} a method that does it"
        for path, each in foreign_assignments(SOURCES)
        if not is_exception(path, each)
    ]
    assert not found, listed(found)


def test_tasks_of_the_library_begin_in_order_under_an_eager_task_factory() -> None:
    found = [
        f"{path}:{node.lineno}: use rap.tasks.start_task"
        for path, source in SOURCES.items()
        if not path.startswith("cli/")  # runs its own loop
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future")
    ]
    assert not found, listed(found)


def test_every_exception_is_needed() -> None:
    found = [each for _, each in foreign_assignments(SOURCES)]
    assert {each.owner for each in found} >= RECORDS.keys()
    assert {f"{each.owner}.{each.attribute}" for each in found} >= OPEN.keys()


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
        ("server/server.py", "from rap import Channel"),
        ("cli/app.py", "import uvloop"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert len(list(wrong_imports(path, source))) == 1


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
    assert list(wrong_imports(path, source)) == []


TYPE_ONLY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rap.client.a import A"


@pytest.mark.parametrize(
    "sources",
    [
        {"client/a.py": "import rap.client.b", "client/b.py": "from rap.client.a import A"},
        {"client/a.py": "from rap.client.b import B", "client/b.py": TYPE_ONLY},
        {"client/__init__.py": "from rap.client.a import A", "client/a.py": "import rap.client"},
        {
            "client/a.py": "from rap.client import b",
            "client/b.py": "from rap.client.c import C",
            "client/c.py": TYPE_ONLY,
        },
    ],
)
def test_an_import_cycle_is_found(sources: dict[str, str]) -> None:
    (cycle,) = import_cycles(sources)
    assert len(cycle) == len(sources) + 1
    assert cycle[0] == cycle[-1]


def test_imports_inside_functions_close_no_cycle() -> None:
    lazy = "def f():\n    from rap.client.a import A"
    sources = {"client/a.py": "from rap.client.b import B", "client/b.py": lazy}
    assert list(import_cycles(sources)) == []


STREAM = """
class Stream:
    def __init__(self) -> None:
        self.state = 0
        self.peer: "Stream | None" = None

class Node:
    def __init__(self, streams: dict[int, Stream]) -> None:
        self.streams = streams

def opened() -> Stream: ...
"""
HEAD = "from rap.wire.stream import Node, Stream, opened\n"


@pytest.mark.parametrize(
    "source",
    [
        "def f(stream: Stream):\n    stream.state = 1",
        "def f(stream: 'Stream | None'):\n    stream.state += 1",
        "def f():\n    stream = opened()\n    stream.state = 1",
        "def f(node: Node):\n    for each in node.streams.values():\n        each.state = 1",
        "def f(node: Node):\n    node.streams[0].peer.state = 1",
        "def f(stream: Stream):\n    del stream.state",
        "def f(stream: Stream):\n    setattr(stream, 'state', 1)",
        "def f(stream: Stream):\n    def g():\n        stream.state = 1",
        "def f(it):\n    it.state = 1",
        "class A:\n    def __init__(self):\n        self.s = Stream()\n        self.s.state = 1",
        "class A:\n    s: Stream\n    def f(self):\n        self.s.state = 1",
    ],
)
def test_an_assignment_to_an_object_of_another_module_is_found(source: str) -> None:
    sources = {"wire/stream.py": STREAM, "transport/a.py": HEAD + source}
    assert len(list(foreign_assignments(sources))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    stream = Stream()\n    stream.state = 1",
        "class A(Stream):\n    def f(self):\n        self.state = 1",
        "class A:\n    x = 1\ndef f(a: A):\n    a.x = 2",
        "class A:\n    x = 1\ndef f(a):\n    a.x = 2",
        "import ssl\ndef f(context: ssl.SSLContext):\n    context.verify_mode = 1",
        "def f(stream: Stream):\n    stream = stream.state",
    ],
)
def test_an_assignment_to_an_own_object_is_allowed(source: str) -> None:
    sources = {"wire/stream.py": STREAM, "transport/a.py": HEAD + source}
    assert list(foreign_assignments(sources)) == []
