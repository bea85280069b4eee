"""Finds assignments to attributes, and uses of private names, of what another module owns.

A class that lets other modules assign to its attributes cannot keep a promise about them, so a
module assigns to objects of its own classes and calls methods of the others. These are allowed:

- ``self.x = …`` and ``cls.x = …``, because a subclass owns what it inherits,
- objects whose class is defined in the same module,
- objects that the same function has made by calling their class,
- objects whose class does not belong to rap, such as an ``SSLContext``.

The class of an object is read from annotations: of parameters, attributes, properties and results.
A container counts as what it contains. If the class of an object is unknown, the module must have
a class with an attribute of that name.

A private name, such as ``other._name``, is allowed for the same objects. It is also looked for in
imports and in `getattr` and `hasattr`.
"""

import ast
import builtins
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias, cast

__all__ = ["Assignment", "PrivateName", "Tree"]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
# Builtins whose result has what the first argument has.
_SAME = {"anext", "enumerate", "iter", "list", "max", "min", "next", "reversed", "sorted", "tuple"}


class Assignment(NamedTuple):
    """An assignment to an attribute of an object that another module owns.

    Args:
        line: Its line.
        target: The attribute, as the source has it.
        owner: The class of the object; ``?`` if it is unknown.
        attribute: Its name.
    """

    line: int
    target: str
    owner: str
    attribute: str


class PrivateName(NamedTuple):
    """A use of a private name of an object or a module that another module owns.

    Args:
        line: Its line.
        use: The expression, as the source has it.
        name: The name.
    """

    line: int
    use: str
    name: str


class _Class:
    """A class: its bases, and an expression for the type of each attribute it is known to have."""

    def __init__(self, module: "_Module", node: ast.ClassDef) -> None:
        self.module = module
        self.name = node.name
        self.bases = node.bases
        self.attributes: dict[str, ast.expr | None] = {}
        for each in node.body:
            match each:
                case ast.AnnAssign(ast.Name(name), annotation):
                    self.attributes[name] = annotation
                case ast.Assign([ast.Name("__slots__")], ast.Tuple(names)):
                    for slot in names:
                        self.attributes.setdefault(ast.literal_eval(slot))
                case ast.Assign([ast.Name(name)]):
                    self.attributes[name] = None
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.attributes[each.name] = each.returns
                    self._read(each)

    def _read(self, method: _Function) -> None:
        """Add what a method assigns to ``self``."""
        given = dict(_parameters(method))
        for each in ast.walk(method):
            match each:
                case ast.AnnAssign(ast.Attribute(ast.Name("self"), name), annotation):
                    self.attributes[name] = annotation
                case ast.Assign(targets, value):
                    found = given.get(value.id) if isinstance(value, ast.Name) else None
                    if isinstance(value, ast.Call):
                        found = value.func  # a class, or a function with an annotation
                    for inner in _flat(targets):
                        if isinstance(inner, ast.Attribute) and _is_self(inner.value):
                            if self.attributes.get(inner.attr) is None:
                                self.attributes[inner.attr] = found


class _Module:
    """A module: its imports, functions and classes."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.node = ast.parse(source)
        self.imported: dict[str, str] = {}  # name in this module to dotted name
        self.classes: dict[str, _Class] = {}
        self.bounds: dict[str, ast.expr] = {}  # of type variables; a tuple of constraints
        for node in ast.walk(self.node):
            match node:
                case ast.Import(names):
                    self.imported |= {a.asname or a.name.split(".")[0]: a.name for a in names}
                case ast.ImportFrom(module=str(module), names=names):
                    self.imported |= {a.asname or a.name: f"{module}.{a.name}" for a in names}
                case ast.ClassDef(name):
                    self.classes[name] = _Class(self, node)
                case ast.Assign([ast.Name(name)], ast.Call(ast.Name("TypeVar"), [_, *bound], more)):
                    bound += [each.value for each in more if each.arg == "bound"]
                    self.bounds[name] = ast.Tuple(bound)
        self.functions = {e.name: e for e in self.node.body if isinstance(e, _FUNCTIONS)}


_Types: TypeAlias = frozenset[_Class | None]  # `None` is each class that does not belong to rap
_UNKNOWN: _Types = frozenset()
_EXTERNAL: _Types = frozenset([None])


class _Scope:
    """The local names of a function, and of the functions around it."""

    def __init__(self, parent: "_Scope | None" = None, owner: _Class | None = None) -> None:
        self._parent = parent
        self.owner: _Class | None = owner
        if owner is None and parent is not None:
            self.owner = parent.owner
        self.types: dict[str, _Types] = {}
        self.made: set[str] = set()  # names of objects that this function makes

    def find(self, name: str) -> "_Scope | None":
        """Return the scope that binds a name."""
        if name in self.types:
            return self
        return None if self._parent is None else self._parent.find(name)


class Tree:
    """The sources of a package.

    Args:
        sources: Dotted name of each module to its source.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._modules = {name: _Module(name, source) for name, source in sources.items()}

    def foreign_assignments(self, module: str) -> Iterator[Assignment]:
        """Yield what a module assigns to objects of other modules."""
        found = self._modules[module]
        yield from self._visit(found, found.node, _Scope())

    def private_names(self, module: str) -> Iterator[PrivateName]:
        """Yield the private names of other modules that a module uses.

        A name is private if it begins with one underscore. A subclass may use those of its bases
        on `self`.
        """
        found = self._modules[module]
        for node in ast.walk(found.node):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rap"):
                for each in node.names:
                    if _is_private(each.name):
                        yield PrivateName(node.lineno, f"{node.module}.{each.name}", each.name)
        yield from self._private(found, found.node, _Scope())

    def _private(self, module: _Module, node: ast.AST, scope: _Scope) -> Iterator[PrivateName]:
        scope = self._enter(module, node, scope)
        match node:
            case ast.Attribute(owner, name) if _is_private(name):
                yield from self._check_private(module, owner, name, scope)
            case ast.Call(ast.Name("getattr" | "hasattr"), [owner, ast.Constant(str(name)), *_]):
                if _is_private(name):
                    yield from self._check_private(module, owner, name, scope)
        for child in ast.iter_child_nodes(node):
            yield from self._private(module, child, scope)

    def _check_private(
        self, module: _Module, owner: ast.expr, name: str, scope: _Scope
    ) -> Iterator[PrivateName]:
        use = f"{ast.unparse(owner)}.{name}"
        if _is_self(owner) or use.startswith("super()."):
            return
        types = self._infer(module, owner, scope)
        is_foreign = types and not any(each and each.module is module for each in types)
        if is_foreign or not any(name in each.attributes for each in module.classes.values()):
            yield PrivateName(owner.lineno, use, name)

    def _enter(self, module: _Module, node: ast.AST, scope: _Scope) -> _Scope:
        """Return the scope inside a node."""
        match node:
            case ast.ClassDef(name):
                return _Scope(scope, module.classes[name])
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                scope = _Scope(scope)
                for name, annotation in _parameters(node):
                    scope.types[name] = self._resolve(module, annotation)
                self._bind(module, node, scope)
        return scope

    def _visit(self, module: _Module, node: ast.AST, scope: _Scope) -> Iterator[Assignment]:
        scope = self._enter(module, node, scope)
        match node:
            case ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.Delete():
                for target in _flat(_targets(node)):
                    if isinstance(target, ast.Attribute):
                        yield from self._check(module, target, target.value, target.attr, scope)
            case ast.Call(ast.Name("setattr"), [owner, ast.Constant(str(name)), _]):
                yield from self._check(module, node, owner, name, scope)
        for child in ast.iter_child_nodes(node):
            yield from self._visit(module, child, scope)

    def _check(
        self, module: _Module, node: ast.expr, owner: ast.expr, attribute: str, scope: _Scope
    ) -> Iterator[Assignment]:
        if _is_self(owner):
            return
        if isinstance(owner, ast.Name):
            bound = scope.find(owner.id)
            if bound is not None and owner.id in bound.made:
                return
        types = self._infer(module, owner, scope)
        foreign = sorted(
            f"{each.module.name}.{each.name}"
            for each in types
            if each is not None and each.module is not module
        )
        if foreign:
            yield Assignment(node.lineno, ast.unparse(node), foreign[0], attribute)
        elif not types and not any(attribute in c.attributes for c in module.classes.values()):
            yield Assignment(node.lineno, ast.unparse(node), "?", attribute)

    def _bind(self, module: _Module, function: ast.AST, scope: _Scope) -> None:
        """Note the types of the local names of a function."""
        for node in _body(function):
            match node:
                case ast.Assign(targets, value):
                    for target in targets:
                        self._bind_target(module, target, value, scope)
                case ast.AnnAssign(ast.Name(name), annotation):
                    scope.types[name] = self._resolve(module, annotation)
                case ast.NamedExpr(target, value):
                    self._bind_target(module, target, value, scope)
                case ast.For(target, value) | ast.AsyncFor(target, value):
                    self._bind_target(module, target, value, scope)
                case ast.comprehension(target, value):
                    self._bind_target(module, target, value, scope)
                case ast.withitem(value, target) if target is not None:
                    self._bind_target(module, target, value, scope)

    def _bind_target(
        self, module: _Module, target: ast.expr, value: ast.expr, scope: _Scope
    ) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for inner, each in zip(target.elts, value.elts, strict=False):
                self._bind_target(module, inner, each, scope)
            return
        types = self._infer(module, value, scope)
        for inner in _flat([target]):
            if isinstance(inner, ast.Name):
                scope.types[inner.id] = scope.types.get(inner.id, _UNKNOWN) | types
                if isinstance(value, ast.Call) and self._is_class(module, value.func):
                    scope.made.add(inner.id)

    def _infer(self, module: _Module, node: ast.expr, scope: _Scope) -> _Types:
        """Return the classes that the value of an expression may have."""
        match node:
            case ast.Name("self" | "cls") if scope.owner is not None:
                return frozenset([scope.owner])
            case ast.Name(name):
                bound = scope.find(name)
                return self._resolve(module, node) if bound is None else bound.types[name]
            case ast.Attribute(value, name):
                return self._attribute(self._infer(module, value, scope), name)
            case ast.Call(ast.Name("cast"), [annotation, _]):
                return self._resolve(module, annotation)
            case ast.Call(ast.Name(name), [first, *_]) if name in _SAME:
                return self._infer(module, first, scope)
            case ast.Call(ast.Attribute(value, name)):
                types = self._infer(module, value, scope)
                return self._attribute(types, name) or types  # a method of a container
            case ast.Call(func):
                return self._infer(module, func, scope)
            case ast.Await(value) | ast.Subscript(value) | ast.NamedExpr(_, value):
                return self._infer(module, value, scope)
            case ast.IfExp(_, first, second):
                return self._infer(module, first, scope) | self._infer(module, second, scope)
            case ast.BoolOp(_, values):
                return _UNKNOWN.union(*(self._infer(module, each, scope) for each in values))
            case ast.ListComp(value) | ast.GeneratorExp(value) | ast.SetComp(value):
                return self._infer(module, value, scope)
        return _UNKNOWN

    def _attribute(self, types: _Types, name: str) -> _Types:
        found = _UNKNOWN
        for each in types:
            if each is None:
                continue
            for owner in self._with_bases(each):
                if name in owner.attributes:
                    found |= self._resolve(owner.module, owner.attributes[name])
                    break
        return found

    def _with_bases(self, owner: _Class) -> Iterator[_Class]:
        yield owner
        for base in owner.bases:
            for each in self._resolve(owner.module, base):
                if each is not None and each is not owner:
                    yield from self._with_bases(each)

    def _resolve(self, module: _Module, annotation: ast.expr | None) -> _Types:
        """Return the classes that an annotation names; of a container, what it contains."""
        match annotation:
            case ast.Constant(str(text)):
                return self._resolve(module, ast.parse(text, mode="eval").body)
            case ast.Name() | ast.Attribute():
                return self._named(module, ast.unparse(annotation))
            case ast.BinOp(left, ast.BitOr(), right):
                types = self._resolve(module, left) | self._resolve(module, right)
                return types - _EXTERNAL or types
            case ast.Subscript(value, arguments):
                types = self._resolve(module, value)
                if types != _EXTERNAL:
                    return types
                inner = arguments.elts if isinstance(arguments, ast.Tuple) else [arguments]
                return _UNKNOWN.union(*(self._resolve(module, each) for each in inner)) or types
            case ast.Tuple(values) | ast.List(values):
                return _UNKNOWN.union(*(self._resolve(module, each) for each in values))
        return _UNKNOWN

    def _named(self, module: _Module, name: str) -> _Types:
        first, _, rest = name.partition(".")
        if name in module.classes:
            return frozenset([module.classes[name]])
        if name in module.functions:
            return self._resolve(module, module.functions[name].returns)
        if name in module.bounds:
            return self._resolve(module, module.bounds[name])
        if name in ("Any", "object"):
            return _UNKNOWN
        if first in module.imported:
            return self._dotted(f"{module.imported[first]}.{rest}".rstrip("."))
        return _EXTERNAL if hasattr(builtins, first) else _UNKNOWN

    def _dotted(self, name: str) -> _Types:
        owner, _, last = name.rpartition(".")
        if not name.startswith("rap."):
            return _UNKNOWN if last in ("Any", "TypeVar") else _EXTERNAL
        return self._named(self._modules[owner], last) if owner in self._modules else _UNKNOWN

    def _is_class(self, module: _Module, node: ast.expr) -> bool:
        """Whether an expression names a class."""
        if not isinstance(node, ast.Name | ast.Attribute):
            return False
        name = ast.unparse(node)
        return any(
            each is None or each.name == name.split(".")[-1] for each in self._named(module, name)
        )


def _parameters(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    arguments = cast("_Function | ast.Lambda", node).args
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if each.arg not in ("self", "cls"):
            yield each.arg, each.annotation


def _body(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of functions in it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, (*_FUNCTIONS, ast.Lambda, ast.ClassDef)):
            yield from _body(child)


def _targets(node: ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]


def _flat(targets: list[ast.expr]) -> Iterator[ast.expr]:
    for each in targets:
        if isinstance(each, ast.Tuple | ast.List):
            yield from _flat(each.elts)
        else:
            yield each


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
