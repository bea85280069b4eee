"""Print the figures of the structure of the code: ``python -m bench.structure``.

They show how far a reader has to go. Use them to compare two trees: ``--repo DIR`` measures the
`rap` in that directory, with the environment that runs the tool.

What is counted in the text of ``rap/**/*.py``:

- Lines of code are those that are neither blank, nor comment, nor docstring.
- A unit is a folder or a file right under ``rap``; ``rap/__init__.py`` is the unit ``rap``.
- An arrow leads from a unit to one that it imports, under TYPE_CHECKING and inside functions too.
- A name across units is a (unit, module, name) of an import from another unit, counted once.
- A cycle is a strongly connected set of two modules or more. ``from rap.a import b`` leads to the
  module ``rap.a.b`` if there is one, else to ``rap.a``. The ``__init__`` of a package, which
  Python runs before the modules, does not count, nor do names that are loaded lazily.
- A friend is a place in a function that assigns to an attribute of another module's object: of a
  parameter, a local, or an attribute of `self`. Objects of a class of the same file, according to
  an annotation or the call that made them, do not count. This is an estimate, but the same for
  every tree.

What is counted while it runs is said in `bench.structure_walks`.
"""

import argparse
import ast
import io
import json
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Import", "Kind", "Source", "cycles", "friends", "imports", "read", "static_figures"]

_ROOT = Path(__file__).parents[1]
_WORST = 15
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
# What takes something out of a container, whose annotation says of which class it is.
_TAKES = {"get", "pop", "popleft", "setdefault", "values"}


class Kind(StrEnum):
    """When an import is done."""

    LOADING = "when the module is loaded"
    LAZY = "inside a function"
    TYPING = "under TYPE_CHECKING"


class Import(NamedTuple):
    """A name that a module imports from another one of rap.

    Args:
        kind: When.
        module: Where it comes from, as it is written.
        name: What is imported; empty for ``import rap.a``.
        target: The module that has it.
    """

    kind: Kind
    module: str
    name: str
    target: str


@dataclass(frozen=True)
class Source:
    """A module.

    Args:
        path: Relative to the folder of the top package.
        name: Dotted.
        unit: The folder or file right under the top package that it belongs to.
        text: What is in it.
        tree: The same, parsed.
    """

    path: str
    name: str
    unit: str
    text: str
    tree: ast.Module


def read(package: Path) -> dict[str, Source]:
    """Return the modules of a package by dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        unit = package.name if parts == ("__init__",) else parts[0]
        dotted = ".".join((package.name, *parts)).removesuffix(".__init__")
        text = path.read_text()
        relative = path.relative_to(package).as_posix()
        found[dotted] = Source(relative, dotted, unit, text, ast.parse(text))
    return found


def code_lines(source: Source) -> int:
    """Return the number of lines that are neither blank, nor comment, nor docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | _Function) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    lines.difference_update(range(first.lineno, (first.end_lineno or 0) + 1))
    text = source.text.splitlines()
    return sum(bool(text[line - 1].strip()) for line in lines)


# Imports.


def imports(source: Source, modules: Mapping[str, Source]) -> Iterator[Import]:
    """Yield what a module imports from the others, itself left out."""
    top = source.name.partition(".")[0]
    package = source.name.split(".")
    if not source.path.endswith("__init__.py"):
        package.pop()
    for kind, node in _statements(source.tree, Kind.LOADING):
        if isinstance(node, ast.Import):
            named = [(alias.name, "") for alias in node.names]
        else:
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            named = [(module, alias.name) for alias in node.names]
        for module, name in named:
            if module.partition(".")[0] == top:
                inner = f"{module}.{name}"
                target = inner if inner in modules else module
                if target != source.name:
                    yield Import(kind, module, name, target)


def _statements(node: ast.AST, kind: Kind) -> Iterator[tuple[Kind, ast.Import | ast.ImportFrom]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield kind, node
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for each in node.body:
            yield from _statements(each, Kind.TYPING)
        for each in node.orelse:
            yield from _statements(each, kind)
    else:
        if isinstance(node, _Function) and kind is Kind.LOADING:
            kind = Kind.LAZY
        for child in ast.iter_child_nodes(node):
            yield from _statements(child, kind)


def cycles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the sets of two or more that all reach each other, the largest first."""
    reached = {start: _reached(start, arrows) for start in arrows}
    found = {
        tuple(sorted(end for end in ends if start in reached.get(end, ())))
        for start, ends in reached.items()
    }
    return sorted((list(each) for each in found if len(each) > 1), key=lambda each: -len(each))


def _reached(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = arrows.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


# Friends.


def friends(tree: ast.Module) -> list[str]:
    """Return every assignment to an attribute of another module's object, as ``line: target``."""
    return _Friends(tree).found


class _Friends:
    """Looks for assignments to attributes of what belongs to another file.

    Args:
        tree: The module.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[str] = []
        self._classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        # Attributes and functions of this file that hold or return what is of its classes.
        self._ours: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and self._says_ours(node.annotation):
                self._ours.add(ast.unparse(node.target).rpartition(".")[2])
            elif isinstance(node, _Function) and self._says_ours(node.returns):
                self._ours.add(node.name)
        self._look(tree, {})  # learns what `self` holds
        self.found.clear()
        self._look(tree, {})

    def _look(self, node: ast.AST, names: dict[str, bool]) -> None:
        for child in _below(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = {**names, **self._arguments(child)}
                self._bind(child, inner)
                self._look(child, inner)
            elif isinstance(child, ast.ClassDef):
                self._look(child, names)
            elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
                self._assigned(child, names)

    def _assigned(self, target: ast.Attribute, names: dict[str, bool]) -> None:
        held: ast.expr = target.value
        if isinstance(held, ast.Name) and held.id in ("self", "cls"):
            return
        root = held
        while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
            root = root.func if isinstance(root, ast.Call) else root.value
        local = isinstance(root, ast.Name) and (root.id in names or root.id in ("self", "cls"))
        if local and not self._is_ours(held, names):
            self.found.append(f"{target.lineno}: {ast.unparse(target)}")

    def _arguments(self, function: _Function | ast.Lambda) -> dict[str, bool]:
        of = function.args
        every = [*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg]
        return {
            each.arg: self._says_ours(each.annotation)
            for each in every
            if each is not None and each.arg not in ("self", "cls")
        }

    def _bind(self, function: ast.AST, names: dict[str, bool]) -> None:
        """Add the locals of a function, and whether they are of a class of this file."""
        for node in _below(function):
            if isinstance(node, _Function | ast.ClassDef):
                names[node.name] = True
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._set(target, self._is_ours(node.value, names), names)
            elif isinstance(node, ast.AnnAssign):
                self._set(node.target, self._says_ours(node.annotation), names)
            elif isinstance(node, ast.NamedExpr):
                self._set(node.target, self._is_ours(node.value, names), names)
            elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
                self._set(node.target, self._is_ours(node.iter, names), names)
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                ours = self._is_ours(node.context_expr, names)
                self._set(node.optional_vars, ours, names)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                names[node.name] = self._says_ours(node.type)

    def _set(self, target: ast.expr, ours: bool, names: dict[str, bool]) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = names.get(target.id, False) or ours
        elif isinstance(target, ast.Tuple | ast.List):
            for each in target.elts:
                self._set(each, False, names)
        elif ours and isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            self._ours.add(target.attr)

    def _is_ours(self, value: ast.expr, names: dict[str, bool]) -> bool:
        """Whether a value is known to be of a class of this file."""
        match value:
            case ast.Name(id=name):
                return names.get(name, name in ("self", "cls") or self._knows(name))
            case ast.Attribute(value=inner, attr=name):
                return self._is_ours(inner, names) if name in _TAKES else self._knows(name)
            case ast.Call(func=ast.Attribute(attr="__new__"), args=[made, *_]):
                return self._is_ours(made, names)
            case ast.Call(func=ast.Name(id="list" | "tuple" | "sorted"), args=[inner, *_]):
                return self._is_ours(inner, names)
            case ast.Call(func=inner) | ast.Subscript(value=inner) | ast.Await(value=inner):
                return self._is_ours(inner, names)
            case ast.IfExp(body=one, orelse=other):
                return self._is_ours(one, names) or self._is_ours(other, names)
            case ast.BoolOp(values=values):
                return any(self._is_ours(each, names) for each in values)
            case ast.Lambda():
                return True
        return False

    def _knows(self, name: str) -> bool:
        return name in self._classes or name in self._ours

    def _says_ours(self, annotation: ast.expr | None) -> bool:
        """Whether an annotation names a class of this file, also in quotes."""
        if annotation is None:
            return False
        for node in ast.walk(annotation):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                try:
                    quoted = ast.parse(node.value, mode="eval").body
                except SyntaxError:
                    continue  # a text of `Annotated`
                if self._says_ours(quoted):
                    return True
            elif isinstance(node, ast.Name) and (node.id in self._classes or node.id == "Self"):
                return True
        return False


def _below(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes inside, in order. Functions and classes are yielded without contents."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, _Scope):
            yield from _below(child)


# All together.


def static_figures(package: Path) -> dict[str, Any]:
    """Return everything that the text of a package tells."""
    modules = read(package)
    found = {name: list(imports(source, modules)) for name, source in modules.items()}
    sizes: dict[str, Counter[str]] = {}
    for source in modules.values():
        size = sizes.setdefault(source.unit, Counter())
        size["files"] += 1
        size["lines"] += len(source.text.splitlines())
        size["code"] += code_lines(source)
    across = {
        (modules[name].unit, modules[each.target].unit, each.module, each.name)
        for name, those in found.items()
        for each in those
        if each.target in modules and modules[each.target].unit != modules[name].unit
    }
    arrows = sorted({(here, there) for here, there, _, _ in across})
    others = {source.path: friends(source.tree) for source in modules.values()}
    worst = sorted(others, key=lambda path: (-len(others[path]), path))
    return {
        "total": {key: sum(size[key] for size in sizes.values()) for key in _SIZES},
        "units": {unit: dict(sizes[unit]) for unit in sorted(sizes)},
        "names across units": len({(here, module, name) for here, _, module, name in across}),
        "arrows": [f"{here} -> {there}" for here, there in arrows],
        "cycles": {title: cycles(_arrows(found, kinds)) for title, kinds in _CYCLES.items()},
        "friends": sum(map(len, others.values())),
        "modules with friends": sum(map(bool, others.values())),
        "worst friends": {path: others[path] for path in worst[:_WORST] if others[path]},
    }


def _arrows(found: Mapping[str, list[Import]], kinds: set[Kind]) -> dict[str, set[str]]:
    return {
        name: {each.target for each in those if each.kind in kinds} for name, those in found.items()
    }


_SIZES = ("files", "lines", "code")
_CYCLES = {
    "when modules are loaded": {Kind.LOADING},
    "and inside functions": {Kind.LOADING, Kind.LAZY},
    "and under TYPE_CHECKING": set(Kind),
}


def _static_text(found: Mapping[str, Any]) -> Iterator[str]:
    total = found["total"]
    yield f"{'unit':<20}{'files':>8}{'lines':>9}{'code':>9}"
    for unit, size in [*found["units"].items(), ("in all", total)]:
        yield f"{unit:<20}{size['files']:>8,}{size['lines']:>9,}{size['code']:>9,}"
    yield ""
    yield f"names imported across units: {found['names across units']:,}"
    yield f"arrows between units: {len(found['arrows']):,}"
    for title, sets in found["cycles"].items():
        yield f"import cycles {title}: {len(sets)}, with {sum(map(len, sets))} modules"
        yield from (f"  {' '.join(each)}" for each in sets)
    yield ""
    yield f"friends: {found['friends']:,} places in {found['modules with friends']:,} modules"
    for path, places in found["worst friends"].items():
        counts = Counter(place.partition(": ")[2] for place in places)
        targets = (f"{name} x{n}" if n > 1 else name for name, n in counts.most_common())
        yield f"  {len(places):>3} {path}: {', '.join(targets)}"


def _walks_text(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'steps in rap':<36}{'side':<8}{'calls':>7}{'files':>7}{'moves':>7}"
    for title, sides in found["walks"].items():
        for side, walk in sides.items():
            yield f"{title:<36}{side:<8}{walk['calls']:>7}{walk['files']:>7}{walk['moves']:>7}"
    concepts = found["concepts of a unary call"]
    classes, functions = concepts["classes"], concepts["functions"]
    yield ""
    yield (
        f"concepts of a unary call: {len(classes) + len(functions)}, "
        f"{len(classes)} classes and {len(functions)} functions"
    )
    yield from (f"  {name}" for name in [*classes, *functions])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.structure", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repo", type=Path, default=_ROOT, help="has the folder rap")
    parser.add_argument("--json", action="store_true", help="print JSON, with all that is counted")
    options = parser.parse_args()
    repo = options.repo.resolve()
    static = static_figures(repo / "rap")
    sys.path.insert(0, str(repo))  # before anything has imported rap
    from bench.structure_walks import run

    running = run(repo / "rap")
    if options.json:
        print(json.dumps({"static": static, "running": running}, indent=2))
        return
    print("\n".join([*_static_text(static), "", *_walks_text(running)]))


if __name__ == "__main__":
    main()
