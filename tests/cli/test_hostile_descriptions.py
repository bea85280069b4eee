"""`rap stub`, `rap describe` and `rap compat` on what a hostile server describes.

The source is written to a file that is imported, so it is Python whatever the description is, and
has no expression of the server but constants and names.
"""

import ast
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from rap.cli.command import Failed
from rap.cli.commands.describe import description_text
from rap.cli.descriptions import checked_description
from rap.cli.stubgen.module import stub_module
from rap.schema.compatibility import Level, compare_all

BOLD_DEF = "\U0001d41d\U0001d41e\U0001d41f"  # an identifier that Python knows as `def`
CODE = "__import__('os').abort()"
NAMES = [
    *("a", "b", "Item", "name", "self", "cls", "client", "talk", "channel", "T", "_open", "x1"),
    *("def", "class", "None", "True", "async", "match", "type", "__debug__", "print", "list"),
    *("_x", "__x", "__init__", "mro", "int", "Client", "Any", "dataclass", "Protocol", "dt"),
    *(
        "ﬁ",
        "fi",
        "\U0001d40d\U0001d428\U0001d427\U0001d41e",
        BOLD_DEF,
        "été",
        "名",
        "a\u0301",
        "x\u202ey",
        "\ud800",
        "½",
    ),
    *("", " ", "1a", "a b", "a-b", "a.b", "a\nb", "a\x00b", "a'b", 'a"b', "a\\", "#", "a:", "*a"),
    *("a" * 300, CODE, f"a={CODE}", f"a:\n    {CODE}\n", f'"""\n{CODE}\n"""'),
]
TYPES = [
    *("int", "str", "list[int]", "dict[str, typing.Any]", "None", "int | None", "tuple[()]"),
    *("typing.Literal['a', 1]", "typing.Literal[()]", "typing.Literal[int]", "Item", "Missing"),
    *("rap.channel.Channel", "rap.channel.Channel[int, str]", "collections.abc.AsyncIterator[int]"),
    *("collections.abc.AsyncGenerator[int, None]", "datetime.datetime", "msgspec.UnsetType"),
    *("", "int if 1 else str", "list[1:2]", "int()", "[int]", "(int, str)", "*int", "a := 1"),
    *("lambda: 0", "f'{int}'", "int\nint", "int;int", "int #", "os.system", "'int'", "b''", "1"),
    *("list[" * 400 + "int" + "]" * 400, "int | " * 3000 + "int", "(" * 500 + ")" * 500, "\x00"),
    *(
        "typing.Literal[" + "'x'," * 500 + "]",
        "\U0001d422nt",
        "typing.Literal[b'\\xff', -1, 1e999]",
        CODE,
    ),
    *("list[__import__('os')]", "int.__class__", "typing.Any[print(1)]", "yield", "await x", "x=1"),
]
DEFAULTS = [
    *(None, "...", "1", "-1.5", "'a'", "b'\\x00'", "(1, 'a')", "Item.a", "Item.def", "Missing.a"),
    *("1e999", "-1e999", "1e999j", "(1e999,)", "{1e999: -1e999}", "list", "dict", "set", "True"),
    *("{1}", "set()", "{}", "[]", "[1]", "frozenset()", "9" * 5000, "(" * 300 + ")" * 300, ""),
    *("'\\ud800'", "'\\n'", "'\"'", "'\\''", "'\\\\'", "1\n2", "1;2", "1 #", "a", "a.b.c", "\x00"),
    *("[" * 5000 + "]" * 5000, "-" * 5000 + "1", "'a' 'b'", "f'{1}'", "1 + 1", "1 + 1j", CODE),
]
DOCS = [
    *("", " ", "One line.", "Two\n\nlines.", "ends in \\", '"', '""', '"""', '\\"""', '"""' * 20),
    *(f'"""\n{CODE}\n"""', "\\" * 91, "x" * 500, "a " * 500, "\x00\x1b[2J", "\u2028\u202e\ud800"),
    *("a\r\nb", "  a\n    b\n c", '\n"\n', '"a"', "\\N{DASH}\\x", "\t\ta\n\t", "a\f\vb", "é" * 120),
]
KINDS = ["", "positional", "keyword", "rest", "names", "other", CODE]
SHAPES = ["unary", "stream", "client_stream", "bidi", "channel", "other", CODE]
CLASSES = ["dataclass", "typed_dict", "named_tuple", "enum", "struct", "model", "other", CODE]
OPTIONS = ["frozen", "kw_only", "tag", "rename", "base", "mixed", "other", CODE]
OPTION_VALUES = ["True", "'a'", "None", "Enum", "StrEnum", "IntFlag", "str", "int", "a", "", CODE]
JUNK: list[Any] = [None, 1, True, 1.5, "", "a", b"", [], {}, [1], ["a"], {"a": 1}, {1: "a"}]

CALLS = {
    *("TypeVar", "TypedDict", "_open", "client.channel", "client.register", "channel.result"),
    *("client.register(name, group)", "dataclass", "dataclasses.field", "msgspec.field"),
    *("interface", "pydantic.Field", "set", "talk"),
}
MODULES = {
    *("__future__", "builtins", "collections.abc", "dataclasses", "datetime", "decimal", "enum"),
    *("msgspec", "pydantic", "rap", "rap.client", "typing", "uuid"),
}
STATEMENTS = (
    *(ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign),
    *(ast.AnnAssign, ast.Expr, ast.Return, ast.Raise, ast.Pass, ast.With, ast.AsyncWith),
)


class Maker:
    """Makes descriptions, most of whose texts are hostile.

    Args:
        rng: Chooses.
        mildness: Share of the texts that are those of an honest server.
    """

    def __init__(self, rng: random.Random, mildness: float) -> None:
        self._rng = rng
        self._mildness = mildness

    def function(self) -> dict[str, Any]:
        return {
            "group": self._of(NAMES, 1),
            "func_name": self._of(NAMES, 4),
            "shape": self._of(SHAPES, 5),
            "doc": self._of(DOCS, 4),
            "is_private": False,
            "idempotent": self._rng.random() < 0.5,
            "parameters": self._some(self._parameter),
            "stream_parameter": self._rng.choice([None, "a", "b", *NAMES]),
            "channel_parameter": self._rng.choice([None, "a", "b", *NAMES]),
            "request": self._rng.choice([None, self._of(TYPES, 10)]),
            "response": self._rng.choice([None, self._of(TYPES, 10)]),
            "returns": self._of(TYPES, 11),
            "types": self._some(self._type),
        }

    def _of(self, values: list[Any], mild: int) -> Any:
        """Return a value, one of the first ones if it is to be mild."""
        is_mild = self._rng.random() < self._mildness
        return self._rng.choice(values[:mild] if is_mild else values)

    def _some(self, make: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
        return [make() for _ in range(self._rng.randrange(4))]

    def _parameter(self) -> dict[str, Any]:
        return {
            "name": self._of(NAMES, 4),
            "kind": self._of(KINDS, 3),
            "type": self._of(TYPES, 7),
            "default": self._of(DEFAULTS, 7),
        }

    def _type(self) -> dict[str, Any]:
        return {
            "name": self._of(["Item", *NAMES], 3),
            "origin": self._rng.choice(["m.Item", "m.Other"]),
            "kind": self._of(CLASSES, 6),
            "options": {
                self._of(OPTIONS, 6): self._of(OPTION_VALUES, 7)
                for _ in range(self._rng.randrange(3))
            },
            "fields": self._some(self._field),
        }

    def _field(self) -> dict[str, Any]:
        return {
            "name": self._of(NAMES, 4),
            "type": self._of(TYPES, 7),
            "default": self._of(DEFAULTS, 7),
        }


def check_source(text: str) -> None:
    """Fail if the source is no Python, or has code that `rap stub` does not write."""
    compile(text, "stub", "exec")
    assert text.replace("\n", "").isprintable()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            assert isinstance(node, STATEMENTS), ast.unparse(node)
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), ast.unparse(node)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) in CALLS
        if isinstance(node, ast.ImportFrom):
            assert node.module in MODULES
        if isinstance(node, ast.Import):
            assert {each.name for each in node.names} <= MODULES
        assert not isinstance(node, ast.Lambda | ast.JoinedStr | ast.NamedExpr | ast.comprehension)


@pytest.mark.parametrize(("mildness", "least"), [(0.0, 0), (0.6, 1), (0.9, 50), (0.98, 150)])
def test_no_description_makes_a_stub_that_is_not_python(mildness: float, least: int) -> None:
    rng = random.Random(1)
    maker = Maker(rng, mildness)
    refusals: list[str] = []
    written = 0
    for _ in range(800):
        functions = [maker.function() for _ in range(rng.randrange(1, 3))]
        try:
            checked = [checked_description(each) for each in functions]
            text = stub_module(checked)
        except Failed as exc:
            refusals.append(exc.format_message())
        else:
            written += 1
            check_source(text)
            check_source(stub_module(checked, sync=True))
    assert all(map(str.isprintable, refusals))
    assert written >= least


def test_no_description_controls_the_terminal() -> None:
    maker = Maker(random.Random(2), 0.9)
    printed = 0
    for _ in range(400):
        try:
            text = description_text(checked_description(maker.function()))
        except Failed:
            continue
        printed += 1
        assert text.replace("\n", "").isprintable()
    assert printed > 100


def test_any_two_descriptions_can_be_compared() -> None:
    rng = random.Random(4)
    maker = Maker(rng, 0.6)
    levels = set()
    for _ in range(800):
        old, new = maker.function(), maker.function()
        new |= {name: old[name] for name in ("group", "func_name", "shape")}
        for renamed in ("'a'", "{'a': []}", "{'a': 'b'}"):
            for each in old["types"]:
                each["options"]["rename"] = renamed
            for found in compare_all([description(old)], [description(new)]):
                levels |= {found.old_clients.level, found.new_clients.level}
    assert levels == set(Level)


@pytest.mark.parametrize(
    "text", ["-" * 100_000 + "1", "int | " * 50_000 + "int", "int | " * 500 + "int", "a." * 900]
)
def test_types_that_nest_too_deep_are_told(text: str) -> None:
    old = Maker(random.Random(5), 1.0).function()
    old |= {"returns": text, "shape": "unary"}
    (found,) = compare_all([description(old)], [description(old | {"returns": "int"})])
    assert found.old_clients.level is not Level.WORKS


def description(found: dict[str, Any]) -> Any:
    """Return a description as `rap compat` takes it."""
    return checked_description(found)


def test_a_description_of_another_form_is_refused() -> None:
    rng = random.Random(3)
    maker = Maker(rng, 1.0)
    refused = 0
    for _ in range(400):
        found = maker.function()
        spoil(found, rng)
        try:
            description = checked_description(found)
        except Failed:
            refused += 1
            continue
        with suppress(Failed):
            stub_module([description])
        with suppress(Failed):
            description_text(description)
    assert refused > 200
    for junk in JUNK:
        with pytest.raises(Failed, match="does not describe a function"):
            checked_description(junk)


def spoil(found: dict[str, Any], rng: random.Random) -> None:
    """Replace or remove one value of a description."""
    places: list[tuple[Any, Any]] = [(found, key) for key in found]
    for each in (*found["parameters"], *found["types"]):
        places += [(each, key) for key in each]
    for each in found["types"]:
        places += [(field, key) for field in each["fields"] for key in field]
        places += [(each["options"], key) for key in each["options"]]
    where, key = rng.choice(places)
    if rng.random() < 0.3:
        del where[key]
    else:
        where[key] = rng.choice(JUNK)
