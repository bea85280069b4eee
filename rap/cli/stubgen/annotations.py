"""Types and defaults from descriptions, as Python source.

The source is written to a file that is executed, so no text of a server is copied: it must parse as
an expression of known names, subscripts and constants, and is generated again.
"""

import ast
import builtins
import keyword
import math
import unicodedata
from collections.abc import Collection

from rap.cli.command import Failed
from rap.foreign import one_line

__all__ = ["Annotations", "is_name", "quoted"]

_DATES = ("date", "datetime", "time", "timedelta")
_COLLECTIONS = (
    *("AsyncGenerator", "AsyncIterable", "AsyncIterator", "Collection", "Generator", "Iterable"),
    *("Iterator", "Mapping", "MutableMapping", "MutableSequence", "MutableSet", "Sequence", "Set"),
)
# What texts may name besides builtins and described classes, and where stubs import it from.
_KNOWN = {
    **{f"collections.abc.{name}": ("collections.abc", name) for name in _COLLECTIONS},
    **{f"typing.{name}": ("typing", name) for name in ("Any", "Literal", "NotRequired")},
    "decimal.Decimal": ("decimal", "Decimal"),
    "uuid.UUID": ("uuid", "UUID"),
    "rap.channel.Channel": ("rap.client", "Channel"),
    "rap.client.sync.channel.SyncChannel": ("rap", "SyncChannel"),
    "msgspec.UnsetType": ("msgspec", "msgspec.UnsetType"),
}
_BUILTINS = {name for name in dir(builtins) if isinstance(getattr(builtins, name), type)}
_TOO_DEEP = "the server describes a type that nests too deep"


def quoted(value: object) -> str:
    """Return a constant as code formatters write it, with double quotes.

    Raises:
        ValueError: It has no literal form.
    """
    if isinstance(value, str):
        text = repr(value)
        if text[0] == '"' or '"' in value:
            return text
        return '"' + text[1:-1].replace("\\'", "'") + '"'
    if isinstance(value, bytes):
        text = repr(value)
        return text if text[1] == '"' or b'"' in value else f'b"{text[2:-1]}"'
    if isinstance(value, tuple):
        inner = ", ".join(map(quoted, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(k)}: {quoted(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(quoted, value))}]"
    if isinstance(value, set):
        return f"{{{', '.join(map(quoted, sorted(value, key=repr)))}}}" if value else "set()"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # `inf` would be a name
    if isinstance(value, complex) and not (math.isfinite(value.real) and math.isfinite(value.imag)):
        raise ValueError(f"{value} has no literal form")
    return repr(value)


def is_name(text: str) -> bool:
    """Whether a text is a valid name in Python, in the only form that Python knows it by."""
    return (
        text.isidentifier()
        and not keyword.iskeyword(text)
        and text != "__debug__"
        and unicodedata.normalize("NFKC", text) == text
    )


class Annotations:
    """Rewrites texts of descriptions, and collects the imports that they need.

    Args:
        classes: Names of the described classes.
        shadowing: Names of fields and methods. If one is called ``list``, the builtin is written
            ``builtins.list``.

    Attributes:
        imports: Module and name of each import.
    """

    def __init__(self, classes: Collection[str], shadowing: Collection[str]) -> None:
        self.imports: set[tuple[str, str]] = set()
        self._classes = classes
        self._shadowing = shadowing

    def need(self, module: str, name: str = "") -> str:
        """Add an import of a name or, if the name is dotted, of its module; return the name."""
        if name.startswith(f"{module}."):
            self.imports.add((module, ""))
        else:
            self.imports.add((module, name))
        return name or module

    def outside_class(self, module: str, name: str) -> str:
        """Add an import of a name that no field or method hides; return how to write it."""
        return self.need(module, f"{module}.{name}" if name in self._shadowing else name)

    def type(self, text: str) -> str:
        """Return a type.

        Raises:
            Failed: The text is not a known type.
        """
        try:
            return ast.unparse(_Rewriter(self, text).visit(_parse(text)))
        except RecursionError as exc:
            raise Failed(_TOO_DEEP) from exc

    def item(self, text: str, iterator: str = "AsyncIterator") -> str:
        """Return the type of an iterator over the items of an iterator type.

        Args:
            text: The iterator type.
            iterator: Name of the result in `collections.abc`.
        """
        tree = _parse(text)
        found = tree.slice if isinstance(tree, ast.Subscript) else None
        if isinstance(found, ast.Tuple):  # a generator has more type arguments
            found = found.elts[0] if found.elts else None
        try:
            item = "typing.Any" if found is None else ast.unparse(found)
        except RecursionError as exc:
            raise Failed(_TOO_DEEP) from exc
        return f"{self.need('collections.abc', iterator)}[{self.type(item)}]"

    def factory(self, name: str, text: str) -> str:
        """Return what makes an empty collection: with its items' types, which checkers ask for.

        Types of the module are quoted, because they may follow.

        Args:
            name: A builtin, such as ``list``.
            text: The type of the collection, which may be a union.
        """
        pending = [_parse(text)]
        while pending:
            match pending.pop():
                case ast.BinOp(left, ast.BitOr(), right):
                    pending += [right, left]
                case ast.Subscript(_, items):
                    entries = items.elts if isinstance(items, ast.Tuple) else [items]
                    if name == "tuple" or len(entries) == (2 if name == "dict" else 1):
                        return f"{self.plain(name)}[{', '.join(map(self._later, entries))}]"
        return self.plain(name)

    def _later(self, tree: ast.expr) -> str:
        """Return a type for an expression that is evaluated before all types are known."""
        try:
            text = self.type(ast.unparse(tree))
            names = {each.id for each in ast.walk(tree) if isinstance(each, ast.Name)}
        except RecursionError as exc:
            raise Failed(_TOO_DEEP) from exc
        return text if names.isdisjoint(self._classes) else quoted(text)

    def default(self, text: str) -> str:
        """Return a default: a constant, a tuple of constants, or a member of a described enum."""
        tree = _parse(text)
        match tree:
            case ast.Attribute(ast.Name(owner), member):
                if owner in self._classes and is_name(member):
                    return f"{owner}.{member}"
        return self.constant(text)

    def constant(self, text: str) -> str:
        """Return the text of a constant.

        Raises:
            Failed: The text is not a constant.
        """
        try:
            return quoted(ast.literal_eval(text))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as exc:
            found = one_line(repr(text))
            raise Failed(f"the server describes a constant as {found}, which is not one") from exc

    def dotted(self, text: str) -> str:
        """Return the name in a stub of something that is described as ``module.name``."""
        module, _, name = text.rpartition(".")
        if module == "datetime" and name in _DATES:
            alias = "_dt" if "dt" in self._shadowing else "dt"
            self.imports.add((f"datetime as {alias}", ""))
            return f"{alias}.{name}"
        if text not in _KNOWN:
            raise Failed(f"the server describes a type {text!r}, for which a stub has no import")
        return self.need(*_KNOWN[text])

    def plain(self, name: str) -> str:
        """Return the name of a builtin or a described class."""
        if name in self._classes:
            return name
        if name not in _BUILTINS:
            raise Failed(f"the server describes a type by the name {name!r}, but not the type")
        if name in self._shadowing:
            return f"{self.need('builtins')}.{name}"
        return name


class _Rewriter(ast.NodeTransformer):
    """Rewrites the syntax tree of a type."""

    def __init__(self, annotations: Annotations, text: str) -> None:
        self._annotations = annotations
        self._text = text

    def visit(self, node: ast.AST) -> ast.AST:
        """Rewrite one node, or refuse it if it cannot be part of a type."""
        match node:
            case ast.Name(name):
                return _parse(self._annotations.plain(name))
            case ast.Attribute():
                return _parse(self._annotations.dotted(ast.unparse(node)))
            case ast.Subscript(ast.Attribute(ast.Name("typing"), "Literal"), values):
                name = self._annotations.dotted("typing.Literal")
                inner = values.elts if isinstance(values, ast.Tuple) else [values]
                if not inner:
                    raise Failed("the server describes a Literal without values")
                texts = [self._annotations.constant(ast.unparse(each)) for each in inner]
                # As one name, so that the text is written unchanged.
                return ast.Name(f"{name}[{', '.join(texts)}]")
            case ast.Constant(None) | ast.Constant(builtins.Ellipsis):
                return node
            case ast.Subscript() | ast.Tuple() | ast.List() | ast.Load() | ast.BitOr():
                return self.generic_visit(node)
            case ast.BinOp(op=ast.BitOr()):
                return self.generic_visit(node)
        raise Failed(f"the server describes a type as {self._text!r}, which is not a type")


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as exc:
        raise Failed(f"the server describes {text!r}, which is not Python") from exc
