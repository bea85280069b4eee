"""Whether old and new declarations of functions understand each other.

Both are given as descriptions, the data of `rap.schema.description`. The rules are those of
docs/schema-evolution.md. What is sent is judged against what is received: arguments by the types of
the client and the server, results the other way round.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from rap.schema.description import (
    FieldEntry,
    FunctionDescription,
    ParameterEntry,
    TypeEntry,
)

__all__ = [
    "ORDERS",
    "Compatibility",
    "Level",
    "Verdict",
    "breaks",
    "compare",
    "compare_all",
    "orders_of",
    "read_descriptions",
    "signature_hash",
]

ORDERS = ("servers-first", "clients-first", "any")
"""The orders in which servers and clients are updated."""

_ARRAYS = {
    "list",
    "set",
    "frozenset",
    "collections.deque",
    *(
        f"collections.abc.{name}"
        for name in ("Sequence", "MutableSequence", "Set", "MutableSet", "Collection", "Iterable")
    ),
}
_MAPS = {
    "dict",
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.abc.Mapping",
    "collections.abc.MutableMapping",
}
_SCALARS = {"int", "float", "bool", "str", "bytes", "None"}
_ANY = "typing.Any"
_RESULT, _ITEM, _ANSWER_ITEM = "the result", "an item", "an item of the answer"


class Level(IntEnum):
    """How well two declarations understand each other; the higher, the worse."""

    WORKS = 0
    SOME = 1
    """Calls with some values fail."""
    WRONG = 2
    """Values are lost or taken for others, without an error; other calls may fail."""
    FAILS = 3


class Verdict(NamedTuple):
    """How calls of one side to the other end, and why.

    Args:
        level: The worst that happens.
        reasons: What has changed, as texts; they may also tell what is dropped although all works.
    """

    level: Level = Level.WORKS
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The verdict in words."""
        words = {
            Level.WORKS: "works",
            Level.SOME: "some calls fail",
            Level.WRONG: "wrong values",
            Level.FAILS: "fails",
        }
        return words[self.level]


class Compatibility(NamedTuple):
    """What a change of one function means.

    Args:
        function: ``group/name``.
        change: ``same``, ``changed``, ``added`` or ``removed``.
        old_clients: How calls of old clients end on new servers.
        new_clients: How calls of new clients end on old servers.
    """

    function: str
    change: str
    old_clients: Verdict
    new_clients: Verdict


def compare_all(
    old: Iterable[FunctionDescription], new: Iterable[FunctionDescription]
) -> list[Compatibility]:
    """Compare all functions of two servers; return one entry for each function, sorted."""
    before = {_path(each): each for each in read_descriptions([*old])}
    after = {_path(each): each for each in read_descriptions([*new])}
    found = []
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            gone = Verdict(Level.FAILS, ("the function is removed",))
            found.append(Compatibility(path, "removed", gone, Verdict()))
        elif path not in before:
            added = Verdict(Level.FAILS, ("the function is new",))
            found.append(Compatibility(path, "added", Verdict(), added))
        else:
            found.append(compare(before[path], after[path]))
    return found


def breaks(found: Iterable[Compatibility], order: str) -> list[str]:
    """Return what goes wrong if servers and clients are updated in an order; a line for each.

    Args:
        found: The functions.
        order: One of `ORDERS`.

    Raises:
        ValueError: There is no such order.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    lines = []
    for each in found:
        sides = [("old clients", "clients-first", each.old_clients)]
        sides.append(("new clients", "servers-first", each.new_clients))
        for clients, other, verdict in sides:
            if order != other and verdict.level is not Level.WORKS:
                reasons = "; ".join(verdict.reasons)
                lines.append(f"{each.function}, {clients}: {verdict.text}: {reasons}")
    return lines


def orders_of(found: Sequence[Compatibility]) -> list[str]:
    """Return the orders of updates in which no calls fail."""
    return [order for order in ORDERS if not breaks(found, order)]


def read_descriptions(data: Any) -> list[FunctionDescription]:
    """Return descriptions from the content of a file of ``rap describe --json``.

    The private functions of the group ``registry``, which each server has, are left out.

    Raises:
        ValueError: It is neither a description nor a list of them.
    """
    entries = data if isinstance(data, list) else [data]
    for each in entries:
        missing = FunctionDescription.__annotations__.keys() - each if isinstance(each, dict) else 1
        if missing:
            raise ValueError("it is not what `rap describe --json` writes")
    return [each for each in entries if each["group"] != "registry"]


def compare(old: FunctionDescription, new: FunctionDescription) -> Compatibility:
    """Compare two descriptions of one function."""
    if signature_of(old) == signature_of(new):
        return Compatibility(_path(old), "same", Verdict(), Verdict())
    try:
        return Compatibility(_path(old), "changed", _judge(old, new), _judge(new, old))
    except (MemoryError, RecursionError):  # texts of a server may nest as deep as it likes
        unknown = Verdict(Level.SOME, ("its types nest too deep to be compared",))
        return Compatibility(_path(old), "changed", unknown, unknown)


def signature_of(function: FunctionDescription) -> dict[str, Any]:
    """Return what of a description calls depend on: neither texts nor names of classes' origins."""
    left_out = ("doc", "idempotent", "types")
    types = [{k: v for k, v in each.items() if k != "origin"} for each in function["types"]]
    return {k: v for k, v in function.items() if k not in left_out} | {"types": types}


def signature_hash(function: FunctionDescription) -> str:
    """Return 12 hex digits that are equal for declarations that send and take the same.

    Clients and servers may use different classes, if these have the same fields, and different
    kinds of lists and maps. Which values parameters have by default does not count, but whether
    they have one.
    """
    shape = _Shape(function["types"])
    parameters = [
        [each["name"], each["kind"], shape.of(each["type"]), _has_default(each)]
        for each in _arguments(function)
    ]
    has_result = function["shape"] in ("unary", "client_stream", "channel")
    items = [function["request"], function["response"]]
    items += [function["returns"] if has_result else None]
    shapes = [None if each is None else shape.of(each) for each in items]
    text = json.dumps([function["shape"], parameters, shapes])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _Shape:
    """Describes what is sent for a type, without the names of classes.

    Args:
        types: The classes.
    """

    def __init__(self, types: Sequence[TypeEntry]) -> None:
        self._types = {each["name"]: each for each in types}
        self._open: list[str] = []  # classes may contain themselves

    def of(self, text: str) -> str:
        """Return the shape of a type."""
        return self._of(_parse(text))

    def _of(self, hint: ast.expr) -> str:
        hint = _required(hint)
        members = _members(hint)
        if len(members) > 1:
            return "|".join(sorted(map(self._of, members)))
        values = _values(hint, self._types)
        if values is not None:
            return f"one of {sorted(map(repr, values))}"
        name = _name(hint)
        if name in self._types:
            return self._of_class(self._types[name])
        fixed = _fixed(hint)
        if fixed is not None:
            return f"({','.join(map(self._of, fixed))})"
        if _is_array(hint):
            return f"[{self._of(_arguments_of(hint, 1)[0])}]"
        if name in _MAPS:
            key, value = map(self._of, _arguments_of(hint, 2))
            return f"{{{key}:{value}}}"
        return ast.unparse(hint)

    def _of_class(self, entry: TypeEntry) -> str:
        name = entry["name"]
        if name in self._open:
            return f"^{len(self._open) - self._open.index(name)}"
        self._open.append(name)
        fields = [
            f"{sent}:{self.of(each['type'])}{'?' * _may_miss(each)}"
            for sent, each in _by_sent_name(entry).items()
        ]
        self._open.pop()
        tag = entry["options"].get("tag", "")
        if _is_array_class(entry):
            return f"{tag}[{','.join(fields)}]"
        return f"{tag}{{{','.join(sorted(fields))}}}"


def _path(function: FunctionDescription) -> str:
    return f"{function['group']}/{function['func_name']}"


def _judge(client: FunctionDescription, server: FunctionDescription) -> Verdict:
    """Return how calls of a client that has one declaration end on a server with the other."""
    if client["shape"] != server["shape"]:
        text = f"a {client['shape']} call meets a {server['shape']} function"
        return Verdict(Level.FAILS, (text,))
    there, back = _Flow(client["types"], server["types"]), _Flow(server["types"], client["types"])
    parts = [_judge_parameters(_arguments(client), _arguments(server), there)]
    if server["is_private"] and not client["is_private"]:
        parts.append(
            Verdict(Level.SOME, ("it is private: clients on other machines get an error",))
        )
    if client["request"] is not None and server["request"] is not None:
        items = there.judge(client["request"], server["request"], _ITEM)
        parts.append(_if_any(items))
    if client["response"] is not None and server["response"] is not None:
        items = back.judge(server["response"], client["response"], _ANSWER_ITEM)
        parts.append(_if_any(items))
    if client["shape"] in ("unary", "client_stream", "channel"):
        parts.append(back.judge(server["returns"], client["returns"], _RESULT))
    return _together(parts)


def _arguments(function: FunctionDescription) -> list[ParameterEntry]:
    """Return the parameters that are sent as arguments."""
    others = (function["stream_parameter"], function["channel_parameter"])
    return [each for each in function["parameters"] if each["name"] not in others]


def _judge_parameters(
    sent: Sequence[ParameterEntry], taken: Sequence[ParameterEntry], flow: "_Flow"
) -> Verdict:
    parts = []
    here = [each for each in sent if each["kind"] in ("", "positional")]
    there = [each for each in taken if each["kind"] in ("", "positional")]
    places = {each["name"]: place for place, each in enumerate(there)}
    rest = next((each for each in taken if each["kind"] == "rest"), None)
    for place, mine in enumerate(here):
        name = mine["name"]
        if place >= len(there):
            if rest is not None:
                parts.append(_optional(mine, flow.judge(mine["type"], rest["type"], name)))
            elif _has_default(mine):
                parts.append(Verdict(Level.SOME, (f"{name} is not taken, if it is given",)))
            else:
                parts.append(Verdict(Level.FAILS, (f"{name} is not taken",)))
            continue
        theirs = there[place]
        if places.get(name, place) != place:
            text = f"{name} is taken as {theirs['name']}: the parameters have changed places"
            parts.append(Verdict(Level.WRONG, (text,)))
        elif name != theirs["name"] and place and _has_default(here[place - 1]):
            text = f"{name} is called {theirs['name']}, if one before it is left out"
            parts.append(Verdict(Level.SOME, (text,)))
        parts.append(_optional(mine, flow.judge(mine["type"], theirs["type"], name)))
        if _has_default(mine) and not _has_default(theirs):
            parts.append(Verdict(Level.SOME, (f"{name} is required, if it is left out",)))
    parts += [
        Verdict(Level.FAILS, (f"{each['name']} is required, and is not sent",))
        for each in there[len(here) :]
        if not _has_default(each)
    ]
    parts += _judge_star(sent, taken, "rest", flow)
    parts += _judge_keywords(sent, taken, flow)
    return _together(parts)


def _judge_star(
    sent: Sequence[ParameterEntry], taken: Sequence[ParameterEntry], kind: str, flow: "_Flow"
) -> Iterator[Verdict]:
    """Judge ``*args`` or ``**kwargs``, which may be empty."""
    mine = next((each for each in sent if each["kind"] == kind), None)
    theirs = next((each for each in taken if each["kind"] == kind), None)
    if mine is None:
        return
    star = "*" if kind == "rest" else "**"
    if theirs is None:
        yield Verdict(Level.SOME, (f"{star}{mine['name']} is not taken, if something is given",))
    else:
        judged = flow.judge(mine["type"], theirs["type"], mine["name"])
        yield _if_any(judged)


def _judge_keywords(
    sent: Sequence[ParameterEntry], taken: Sequence[ParameterEntry], flow: "_Flow"
) -> Iterator[Verdict]:
    mine = {each["name"]: each for each in sent if each["kind"] == "keyword"}
    named = {each["name"]: each for each in taken if each["kind"] in ("keyword", "")}
    rest = next((each for each in taken if each["kind"] == "names"), None)
    for name, each in mine.items():
        theirs = named.get(name) or rest
        if theirs is None:
            level = Level.SOME if _has_default(each) else Level.FAILS
            yield Verdict(level, (f"{name} is not taken",))
            continue
        yield _optional(each, flow.judge(each["type"], theirs["type"], name))
        if theirs is not rest and _has_default(each) and not _has_default(theirs):
            yield Verdict(Level.SOME, (f"{name} is required, if it is left out",))
    for each in taken:
        if each["kind"] == "keyword" and each["name"] not in mine and not _has_default(each):
            yield Verdict(Level.FAILS, (f"{each['name']} is required, and is not sent",))
    yield from _judge_star(sent, taken, "names", flow)


def _has_default(entry: ParameterEntry | FieldEntry) -> bool:
    return entry["default"] is not None


def _optional(parameter: ParameterEntry, verdict: Verdict) -> Verdict:
    """Return the verdict of an argument that may be left out, if it has a default."""
    if verdict.level is Level.FAILS and _has_default(parameter):
        return Verdict(Level.SOME, verdict.reasons)
    return verdict


def _if_any(verdict: Verdict) -> Verdict:
    """Return the verdict of something that may hold no such value."""
    if verdict.level is Level.FAILS:
        return Verdict(Level.SOME, verdict.reasons)
    return verdict


def _together(parts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of something whose parts are all there."""
    found = list(parts)
    level = max((each.level for each in found), default=Level.WORKS)
    return Verdict(level, tuple(dict.fromkeys(text for each in found for text in each.reasons)))


def _one_of(parts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of something that is one of several."""
    whole = _together(parts)
    if whole.level is Level.FAILS and any(each.level is not Level.FAILS for each in parts):
        worst = max(each.level for each in parts if each.level is not Level.FAILS)
        return Verdict(max(worst, Level.SOME), whole.reasons)
    return whole


class _Flow:
    """Judges whether values of one side are understood by the other.

    Args:
        sent: Classes of the side that sends.
        taken: Classes of the side that receives.
    """

    def __init__(self, sent: Sequence[TypeEntry], taken: Sequence[TypeEntry]) -> None:
        self._sent = {each["name"]: each for each in sent}
        self._taken = {each["name"]: each for each in taken}
        self._running: set[tuple[str, str]] = set()  # classes may contain themselves

    def judge(self, sent: str, taken: str, where: str) -> Verdict:
        """Judge values of the type `sent` for the type `taken`."""
        return self._judge(_parse(sent), _parse(taken), where)

    def _judge(self, sent: ast.expr, taken: ast.expr, where: str) -> Verdict:
        sent, taken = _required(sent), _required(taken)
        names = ast.unparse(sent), ast.unparse(taken)
        if names[1] == _ANY or (names[0] == names[1] and not self._has_classes(sent)):
            return Verdict()
        members = _members(sent)
        if len(members) > 1:
            return _one_of([self._judge(each, taken, where) for each in members])
        if names[0] == _ANY:
            return Verdict(Level.SOME, (f"{where}: any value is sent, {names[1]} is taken",))
        choices = _members(taken)
        if len(choices) > 1:
            return self._best(sent, choices, where)
        if names in self._running:
            return Verdict()
        self._running.add(names)
        try:
            return self._judge_one(sent, taken, where)
        finally:
            self._running.discard(names)

    def _best(self, sent: ast.expr, choices: Sequence[ast.expr], where: str) -> Verdict:
        """Return the verdict for a union, of which one member has to fit."""
        judged = [self._judge(sent, each, where) for each in choices]
        best = min(judged, key=lambda each: (each.level, len(each.reasons)))
        if best.level is not Level.FAILS:
            return best
        union = " | ".join(map(ast.unparse, choices))
        return Verdict(Level.FAILS, (f"{where}: {ast.unparse(sent)} is sent, {union} is taken",))

    def _judge_one(self, sent: ast.expr, taken: ast.expr, where: str) -> Verdict:
        """Judge two types that are no unions."""
        text = f"{where}: {ast.unparse(sent)} is sent, {ast.unparse(taken)} is taken"
        mine, theirs = _values(sent, self._sent), _values(taken, self._taken)
        if mine is not None or theirs is not None:
            return self._judge_values(mine, theirs, sent, taken, where, text)
        one, other = self._sent.get(_name(sent)), self._taken.get(_name(taken))
        if one is not None and other is not None:
            return self._judge_classes(one, other, where)
        if one is not None or other is not None:
            known = _name(taken if one is not None else sent) in _SCALARS
            return Verdict(Level.FAILS if known else Level.SOME, (text,))
        return self._judge_plain(sent, taken, where, text)

    def _judge_plain(self, sent: ast.expr, taken: ast.expr, where: str, text: str) -> Verdict:
        """Judge types that are neither unions, classes nor sets of values."""
        mine, theirs = _name(sent), _name(taken)
        if {mine, theirs} <= _SCALARS:
            if mine == theirs or (mine, theirs) == ("int", "float"):
                return Verdict()
            return Verdict(
                Level.SOME if (mine, theirs) == ("float", "int") else Level.FAILS, (text,)
            )
        if _is_array(sent) and _is_array(taken):
            return self._judge_arrays(sent, taken, where, text)
        if mine in _MAPS and theirs in _MAPS:
            pairs = zip(_arguments_of(sent, 2), _arguments_of(taken, 2), strict=True)
            parts = [self._judge(one, other, where) for one, other in pairs]
            return _if_any(_together(parts))
        kinds = [_kind_of(each) for each in (sent, taken)]
        if None not in kinds and kinds[0] != kinds[1]:
            return Verdict(Level.FAILS, (text,))
        return (
            Verdict() if ast.unparse(sent) == ast.unparse(taken) else Verdict(Level.SOME, (text,))
        )

    def _judge_arrays(self, sent: ast.expr, taken: ast.expr, where: str, text: str) -> Verdict:
        mine, theirs = _fixed(sent), _fixed(taken)
        if mine is None and theirs is None:
            judged = self._judge(_arguments_of(sent, 1)[0], _arguments_of(taken, 1)[0], where)
            return _if_any(judged)
        if mine is not None and theirs is not None:
            if len(mine) != len(theirs):
                return Verdict(Level.FAILS, (text,))
            pairs = zip(mine, theirs, strict=True)
            return _together([self._judge(one, other, where) for one, other in pairs])
        if mine is not None:
            item = _arguments_of(taken, 1)[0]
            return _together([self._judge(each, item, where) for each in mine])
        return Verdict(Level.SOME, (text,))

    def _judge_values(
        self,
        mine: list[Any] | None,
        theirs: list[Any] | None,
        sent: ast.expr,
        taken: ast.expr,
        where: str,
        text: str,
    ) -> Verdict:
        if mine is None:
            assert theirs is not None
            fitting = {type(each).__name__ for each in theirs}
            fits = _name(sent) in fitting or _name(sent) not in _SCALARS
            return Verdict(Level.SOME if fits else Level.FAILS, (text,))
        if theirs is None:
            if _name(taken) not in _SCALARS:
                is_class = _name(taken) in self._taken or _is_array(taken) or _name(taken) in _MAPS
                return Verdict(Level.FAILS if is_class else Level.SOME, (text,))
            sorts = {"None" if each is None else type(each).__name__ for each in mine}
            return _one_of([self._judge(_parse(each), taken, where) for each in sorted(sorts)])
        known = [(type(each), each) for each in theirs]
        lost = [each for each in mine if (type(each), each) not in known]
        if not lost:
            return Verdict()
        level = Level.FAILS if len(lost) == len(mine) else Level.SOME
        return Verdict(level, (f"{where}: {', '.join(map(repr, lost))} is not known",))

    def _judge_classes(self, mine: TypeEntry, theirs: TypeEntry, where: str) -> Verdict:
        arrays = [_is_array_class(each) for each in (mine, theirs)]
        if arrays[0] != arrays[1]:
            text = f"{where}: {mine['name']} is sent as {'an array' if arrays[0] else 'a map'}"
            return Verdict(Level.FAILS, (text,))
        tags = [
            (each["options"].get("tag"), each["options"].get("tag_field"))
            for each in (mine, theirs)
        ]
        if tags[0] != tags[1]:
            return Verdict(Level.FAILS, (f"{where}: the tag of {mine['name']} is another one",))
        if arrays[0]:
            return self._judge_places(mine, theirs, where)
        return self._judge_fields(mine, theirs, where)

    def _judge_places(self, mine: TypeEntry, theirs: TypeEntry, where: str) -> Verdict:
        """Judge classes that are sent as arrays."""
        parts = []
        for one, other in zip(mine["fields"], theirs["fields"], strict=False):
            parts.append(self.judge(one["type"], other["type"], _field(where, one["name"])))
            if one["name"] != other["name"] and one["name"] in _names(theirs["fields"]):
                text = f"{_field(where, one['name'])} is taken as {other['name']}"
                parts.append(Verdict(Level.WRONG, (text,)))
        parts += [
            Verdict(Level.FAILS, (f"{_field(where, each['name'])} is required, and is not sent",))
            for each in theirs["fields"][len(mine["fields"]) :]
            if not _has_default(each)
        ]
        if len(mine["fields"]) > len(theirs["fields"]):
            extra = mine["fields"][len(theirs["fields"]) :]
            names = ", ".join(each["name"] for each in extra)
            is_strict = theirs["kind"] == "named_tuple"
            text = f"{where}: {names} is {'not taken' if is_strict else 'dropped'}"
            parts.append(Verdict(Level.FAILS if is_strict else Level.WORKS, (text,)))
        return _together(parts)

    def _judge_fields(self, mine: TypeEntry, theirs: TypeEntry, where: str) -> Verdict:
        """Judge classes that are sent as maps."""
        parts = []
        sent, taken = _by_sent_name(mine), _by_sent_name(theirs)
        invented = []  # fields that the receiver fills with their defaults
        for name, other in taken.items():
            one = sent.get(name)
            if one is None:
                if _may_miss(other):
                    invented.append(name)
                else:
                    text = f"{_field(where, name)} is required, and is not sent"
                    parts.append(Verdict(Level.FAILS, (text,)))
                continue
            judged = self.judge(one["type"], other["type"], _field(where, name))
            if _may_be_left_out(mine, one):
                judged = _if_any(judged)
                if not _may_miss(other):
                    text = f"{_field(where, name)} is required, if it is left out"
                    parts.append(Verdict(Level.SOME, (text,)))
            parts.append(judged)
        dropped = [name for name in sent if name not in taken]
        if dropped and theirs["options"].get("forbid_unknown_fields"):
            text = f"{_field(where, ', '.join(dropped))} is not taken"
            parts.append(Verdict(Level.FAILS, (text,)))
        elif dropped and invented:
            text = f"{where}: {', '.join(dropped)} is lost, {', '.join(invented)} has its default"
            parts.append(Verdict(Level.WRONG, (text,)))
        elif dropped:
            parts.append(Verdict(Level.WORKS, (f"{where}: {', '.join(dropped)} is dropped",)))
        return _together(parts)

    def _has_classes(self, hint: ast.expr) -> bool:
        """Whether a type names a class whose fields may differ on both sides."""
        names = {ast.unparse(each) for each in ast.walk(hint) if isinstance(each, ast.Name)}
        return bool(names & (self._sent.keys() | self._taken.keys()))


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):  # the latter of a null byte
        return ast.Name(text)


def _name(hint: ast.expr) -> str:
    """Return the name of a type without its arguments."""
    return ast.unparse(hint.value if isinstance(hint, ast.Subscript) else hint)


def _members(hint: ast.expr) -> list[ast.expr]:
    """Return the members of a union; the type itself if it is none."""
    if isinstance(hint, ast.BinOp) and isinstance(hint.op, ast.BitOr):
        return [*_members(hint.left), *_members(hint.right)]
    return [hint]


def _required(hint: ast.expr) -> ast.expr:
    """Return the type inside a `NotRequired`."""
    if isinstance(hint, ast.Subscript) and _name(hint) == "typing.NotRequired":
        return hint.slice
    return hint


def _arguments_of(hint: ast.expr, count: int) -> list[ast.expr]:
    """Return so many type arguments; those that are missing are any type."""
    given: list[ast.expr] = []
    if isinstance(hint, ast.Subscript):
        given = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
    return [*given, *[_parse(_ANY)] * count][:count]


def _values(hint: ast.expr, types: Mapping[str, TypeEntry]) -> list[Any] | None:
    """Return the values of a Literal or an enum; `None` for another type."""
    name = _name(hint)
    if name == "typing.Literal" and isinstance(hint, ast.Subscript):
        items = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
        return [_literal(each) for each in items]
    entry = types.get(name)
    if entry is None or entry["kind"] != "enum":
        return None
    return [_literal(_parse(each["default"] or "None")) for each in entry["fields"]]


def _is_array(hint: ast.expr) -> bool:
    return _name(hint) in _ARRAYS or _name(hint) == "tuple"


def _fixed(hint: ast.expr) -> list[ast.expr] | None:
    """Return the items of a tuple of fixed length; `None` for another array."""
    if _name(hint) != "tuple" or not isinstance(hint, ast.Subscript):
        return None
    inner = hint.slice
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if items and isinstance(items[-1], ast.Constant) and items[-1].value is ...:
        return None
    return items


def _kind_of(hint: ast.expr) -> str | None:
    """Return what a type is on the wire, if that is known: a scalar, an array or a map."""
    name = _name(hint)
    if name in _SCALARS:
        return name
    if _is_array(hint):
        return "array"
    return "map" if name in _MAPS else None


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, SyntaxError, TypeError):
        return ast.unparse(node)


def _field(where: str, name: str) -> str:
    """Return what to call a field: ``a.b`` of an argument ``a``, or ``a.b of the result``."""
    if where in (_RESULT, _ITEM, _ANSWER_ITEM):
        return f"{name} of {where}"
    place, of, whole = where.partition(" of ")
    return f"{place}.{name}{of}{whole}"


def _names(fields: Iterable[FieldEntry]) -> set[str]:
    return {each["name"] for each in fields}


def _is_array_class(entry: TypeEntry) -> bool:
    return entry["kind"] == "named_tuple" or "array_like" in entry["options"]


def _by_sent_name(entry: TypeEntry) -> dict[str, FieldEntry]:
    """Return the fields by the names that are sent."""
    found = _literal(_parse(entry["options"].get("rename", "{}")))
    renamed = found if isinstance(found, dict) else {}  # a server may tell anything
    return {str(renamed.get(each["name"], each["name"])): each for each in entry["fields"]}


def _may_miss(field: FieldEntry) -> bool:
    """Whether a receiver fills in a field that is not sent."""
    return _has_default(field) or field["type"].startswith("typing.NotRequired[")


def _may_be_left_out(entry: TypeEntry, field: FieldEntry) -> bool:
    """Whether a sender may leave out a field."""
    omits = "omit_defaults" in entry["options"] and _has_default(field)
    return omits or field["type"].startswith("typing.NotRequired[")
