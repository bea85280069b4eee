"""The architecture as a test: imports point down without cycles, and modules own their objects."""

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.ownership import Assignment, PrivateName, Tree

RAP = Path(__file__).parents[1] / "rap"
SOURCES = {path.relative_to(RAP).as_posix(): path.read_text() for path in RAP.rglob("*.py")}

# The layers of docs/architecture.md, from the lowest to the highest. A file or folder may import
# those of lower layers, but not those of its own layer. In the lowest layer, a file may also import
# the files on its left.
LAYERS = [
    [
        "__init__",
        "_lazy",
        "foreign",
        "misuse",
        "record",
        "tracebacks",
        "errors",
        "clock",
        "address",
        "call",
        "options",
        "tasks",
        "notify",
        "collisions",
        "turns",
        "shared_thread",
    ],
    ["wire", "redis"],
    ["transport", "registry", "balance", "shared_state"],
    ["schema"],
    ["processor"],
    ["channel"],
    ["client", "server"],
    ["observe"],
    ["gateway", "cli"],
    ["testing", "api_gateway", "common"],
]
LEVEL = {unit: (layer, place) for layer, row in enumerate(LAYERS) for place, unit in enumerate(row)}

STANDARD = {*sys.stdlib_module_names, "annotationlib"}  # that one comes with Python 3.14

# Where a third-party package may be imported: one file, or the files of one folder.
THIRD_PARTY: dict[str, str | tuple[str, ...]] = {
    "msgpack": "wire/codec.py",
    "msgspec": ("schema/", "record.py"),
    "redis": "redis/client.py",
    "Crypto": "processor/encryption/pycryptodome.py",
    "cryptography": "processor/encryption/openssl.py",
    "prometheus_client": ("processor/metrics/prometheus.py", "observe/"),
    "opentelemetry": "processor/tracing/opentelemetry.py",
    "opentracing": "processor/tracing/opentracing.py",
    "jaeger_client": "processor/tracing/opentracing.py",
    "starlette": "gateway/",
    "uvicorn": "gateway/",
    "click": "cli/",
    "pytest": "testing/plugin.py",
    "pytest_asyncio": "testing/plugin.py",
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


# Exceptions to "no module uses private names of others", by the expression, or by the name alone.
NOT_PRIVATE = {
    "_asdict": "named tuples document it",
    "_field_defaults": "named tuples document it",
    "_fields": "named tuples document it",
    "_missing_": "enums document it",
    "os._exit": "os documents it",
    "sys._current_frames": "sys documents it",
    "sys._getframe": "sys documents it",
    "sock._io_refs": "the only sign that uvloop has taken a socket; 0 without the name",
    "by_context._SCOPE": "saves 1 % of a traced call; without the name, the public way is taken",
    "otel_context._RUNTIME_CONTEXT": "saves 0.4 % of a traced call; likewise",
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
        elif top in STANDARD:
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

    Imports under ``TYPE_CHECKING`` and inside functions count. A cycle that is yielded is cut
    there, so each module is in a cycle at most as often as it imports.
    """
    modules = {module_of(path): source for path, source in sources.items()}
    graph: dict[str, set[str]] = {}
    for module, source in modules.items():
        names = [each.name for each in imports(ast.parse(source))]
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


def tree_of(sources: Mapping[str, str]) -> Tree:
    """Return the modules of files as one tree."""
    return Tree({module_of(path): source for path, source in sources.items()})


def foreign_assignments(sources: Mapping[str, str]) -> Iterator[tuple[str, Assignment]]:
    """Yield the file and each assignment to an attribute of an object of another module."""
    tree = tree_of(sources)
    for path in sorted(sources):
        for each in tree.foreign_assignments(module_of(path)):
            yield path, each


def private_names(sources: Mapping[str, str]) -> Iterator[tuple[str, PrivateName]]:
    """Yield the file and each use of a private name of another module."""
    tree = tree_of(sources)
    for path in sorted(sources):
        for each in tree.private_names(module_of(path)):
            yield path, each


@functools.cache
def assignments_of_rap() -> list[tuple[str, Assignment]]:
    """Return what `foreign_assignments` finds in `rap`."""
    return list(foreign_assignments(SOURCES))


@functools.cache
def private_names_of_rap() -> list[tuple[str, PrivateName]]:
    """Return what `private_names` finds in `rap`."""
    return list(private_names(SOURCES))


def is_exception(path: str, found: Assignment) -> bool:
    """Whether a table above allows an assignment."""
    in_package = path.startswith(RECORDS.get(found.owner, "nowhere"))
    return in_package or f"{found.owner}.{found.attribute}" in OPEN


def catches_all(line: str) -> bool:
    """Whether a line catches `Exception` or `BaseException`."""
    return re.search(r"(except\b.*|suppress\(.*)\b(Base)?Exception\b|except:", line) is not None


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
        for path, each in assignments_of_rap()
        if not is_exception(path, each)
    ]
    assert not found, listed(found)


def test_no_module_uses_private_names_of_other_modules() -> None:
    found = [
        f"{path}:{each.line}: uses {each.use}; give its owner a public method or name"
        for path, each in private_names_of_rap()
        if not {each.use, each.name} & NOT_PRIVATE.keys()
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


def test_what_catches_every_exception_says_why() -> None:
    found = [
        f"{path}:{number}: name the exceptions, or say in a comment why none can be named"
        for path, source in SOURCES.items()
        for number, line in enumerate(source.splitlines(), 1)
        if catches_all(line) and "  # " not in line
    ]
    assert not found, listed(found)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("except Exception:", True),
        ("    except Exception as exc:", True),
        ("except BaseException as exc:", True),
        ("except (OSError, Exception):", True),
        ("with contextlib.suppress(Exception):", True),
        ("except:", True),
        ("except OSError:", False),
        ("except UnpackException:", False),
        ("def fail(error: Exception) -> None:", False),
    ],
)
def test_a_line_that_catches_every_exception_is_found(line: str, expected: bool) -> None:
    assert catches_all(line) is expected


def test_every_exception_is_needed() -> None:
    found = [each for _, each in assignments_of_rap()]
    assert {each.owner for each in found} >= RECORDS.keys()
    assert {f"{each.owner}.{each.attribute}" for each in found} >= OPEN.keys()
    uses = [each for _, each in private_names_of_rap()]
    assert {name for each in uses for name in (each.use, each.name)} >= NOT_PRIVATE.keys()


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


def test_imports_inside_functions_close_a_cycle() -> None:
    lazy = "def f():\n    from rap.client.a import A"
    sources = {"client/a.py": "from rap.client.b import B", "client/b.py": lazy}
    assert list(import_cycles(sources)) == [["rap.client.a", "rap.client.b", "rap.client.a"]]


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


PRIVATE = """
_LIMIT = 3

class Stream:
    def __init__(self) -> None:
        self._state = 0

def opened() -> Stream: ...
"""


@pytest.mark.parametrize(
    "source",
    [
        "from rap.wire.stream import _LIMIT",
        "from rap.wire import stream\nprint(stream._LIMIT)",
        "from rap.wire.stream import Stream\ndef f(stream: Stream):\n    return stream._state",
        "from rap.wire.stream import opened\ndef f():\n    return opened()._state",
        "def f(stream):\n    return stream._state",
        "def f(stream):\n    return getattr(stream, '_state', 0)",
        "from rap.wire.stream import Stream\nclass A:\n    def __init__(self, s: Stream):\n"
        "        self._state = s._state",
        "import socket\nsocket._x()",
    ],
)
def test_a_private_name_of_another_module_is_found(source: str) -> None:
    sources = {"wire/stream.py": PRIVATE, "transport/a.py": source}
    assert len(list(private_names(sources))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    _x = 1\ndef f(a: A):\n    return a._x",
        "class A:\n    _x = 1\ndef f(a):\n    return a._x",
        "from rap.wire.stream import Stream\nclass A(Stream):\n    def f(self):\n"
        "        return self._state",
        "class A(dict):\n    def f(self):\n        return super()._x()",
        "def f(a):\n    return a.__dict__, getattr(a, '__name__', '')",
    ],
)
def test_a_private_name_of_the_same_module_is_allowed(source: str) -> None:
    sources = {"wire/stream.py": PRIVATE, "transport/a.py": source}
    assert list(private_names(sources)) == []
