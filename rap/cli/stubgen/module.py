"""Descriptions of functions as the source of a module of stubs.

The module has the types, a Protocol for each group, and a function for each channel. It starts with
``from __future__ import annotations``, so that types can stand in any order. Enums come first,
because defaults of other types are their members.
"""

import ast
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rap.cli.command import Failed
from rap.cli.stubgen.annotations import Annotations, is_name, quoted
from rap.cli.stubgen.declarations import WIDTH, declare, parameters
from rap.foreign import one_line

__all__ = ["stub_module"]

_INDENT = "    "
_OPENING: str = """
{async_}def _open(
    client: {client},
    declared: Callable[Concatenate[{opened}[In, Out], ...], {answer}],
    name: str,
    group: str,
    talk: Callable[[{opened}[In, Out]], {given}],
    /,
    *args: Any,
    **kwargs: Any,
) -> T:
    function = client.register(name, group)(declared)
    opened = client.channel(function, arg_param=args, kwarg_param=kwargs)
    {async_}with opened as channel:
        value = {await_}talk(channel)
        return {await_}channel.result() if value is None else value
"""


class _Style(NamedTuple):
    """What differs between stubs for a `Client` and for a `SyncClient`.

    Args:
        client: Name of the client.
        channel: Full name of its channel.
        iterator: Name of what a generator returns.
        answer: What a declared channel function returns.
        imports: What channels need.
        async_: What stands before ``def`` and ``with``.
        await_: What stands before a call.
    """

    client: str
    channel: str
    iterator: str
    answer: str
    imports: tuple[tuple[str, tuple[str, ...]], ...]
    async_: str
    await_: str

    def given(self, value: str) -> str:
        """Return what a function returns that is called with a channel, and has this value."""
        return f"Awaitable[{value}]" if self.async_ else value


_ASYNC = _Style(
    client="Client",
    channel="rap.channel.Channel",
    iterator="AsyncIterator",
    answer="Coroutine[Any, Any, Any]",
    imports=(
        ("collections.abc", ("Awaitable", "Coroutine")),
        ("rap.client", ("Channel", "Client")),
    ),
    async_="async ",
    await_="await ",
)
_SYNC = _Style(
    client="SyncClient",
    channel="rap.client.sync.channel.SyncChannel",
    iterator="Iterator",
    answer="Any",
    imports=(("rap", ("SyncChannel", "SyncClient")),),
    async_="",
    await_="",
)
# Names that the module may import or define.
_OWN = {
    *("Any", "AsyncGenerator", "AsyncIterable", "AsyncIterator", "Awaitable", "Callable"),
    *(
        "Channel",
        "Client",
        "Collection",
        "Concatenate",
        "Coroutine",
        "Decimal",
        "In",
        "Out",
        "Enum",
        "Flag",
        "Generator",
        "IntEnum",
    ),
    *("IntFlag", "Iterable", "Iterator", "Literal", "Mapping", "MutableMapping"),
    *("MutableSequence", "MutableSet", "NamedTuple", "NotRequired", "Protocol", "Sequence", "Set"),
    *("StrEnum", "SyncChannel", "SyncClient", "T", "TypeVar", "TypedDict", "UUID", "annotations"),
    *("builtins", "_open", "dataclass", "dataclasses", "dt", "idempotent", "interface", "msgspec"),
    *("overload", "pydantic", "rap"),
}

Description = Mapping[str, Any]


def stub_module(descriptions: Sequence[Description], *, sync: bool = False) -> str:
    """Return the source of a module for these functions.

    Args:
        descriptions: The functions.
        sync: Whether it is for a `SyncClient`.

    Raises:
        Failed: No Python source can have these descriptions.
    """
    style = _SYNC if sync else _ASYNC
    types, functions = _merged(descriptions)
    for name in types:
        if not is_name(name):
            raise Failed(f"the server describes a type {name!r}, which is not a name")
    shadowing = {each["func_name"] for each in functions}
    shadowing |= {field["name"] for each in types.values() for field in each["fields"]}
    annotations = Annotations(types, shadowing)
    blocks = [
        _documented(declare(entry, annotations), entry)
        for entry in sorted(types.values(), key=lambda each: each["kind"] != "enum")
    ]
    taken = _OWN | set(types)
    groups: dict[str, list[Description]] = {}
    for each in functions:
        groups.setdefault(each["group"], []).append(each)
    for group, members in sorted(groups.items()):
        calls = [each for each in members if each["shape"] != "channel"]
        if calls:
            blocks.append(_protocol(group, calls, taken, annotations, style))
    channels = [each for each in functions if each["shape"] == "channel"]
    if channels:
        for module, names in (
            ("collections.abc", ("Callable",)),
            ("typing", ("Any", "Concatenate", "TypeVar")),
            *style.imports,
        ):
            for name in names:
                annotations.need(module, name)
        for each in channels:
            blocks += _channel(each, taken, annotations, style)
        filled = {"given": style.given("T"), "opened": style.channel.rpartition(".")[2]}
        opening = _OPENING.format(**style._asdict(), **filled)
        blocks.append(opening.strip("\n").split("\n"))
    head = [
        '"""Typed stubs of the functions of a server, written by `rap stub`."""',
        "",
        "from __future__ import annotations",
        "",
        *_imports(annotations.imports),
    ]
    if channels:
        head += ["", *(f'{name} = TypeVar("{name}")' for name in ("T", "In", "Out"))]
    text = "\n\n\n".join("\n".join(lines) for lines in [head, *blocks]) + "\n"
    try:
        compile(text, "the stubs", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as exc:
        raise Failed(f"the server describes what cannot be written as Python: {exc}") from exc
    return text


def _merged(descriptions: Sequence[Description]) -> tuple[dict[str, Any], list[Description]]:
    """Return all types by name, and the functions with these names."""
    types: dict[str, Any] = {}
    names: dict[tuple[str, str], str] = {}
    taken = _OWN | {each["func_name"] for each in descriptions}
    taken |= {it["name"] for each in descriptions for e in each["types"] for it in e["fields"]}
    functions: list[Description] = []
    for each in descriptions:
        new = {entry["name"]: _free(entry, names, taken) for entry in each["types"]}
        for entry in each["types"]:
            fields = [_renamed(field, new) for field in entry["fields"]]
            types[new[entry["name"]]] = {**entry, "name": new[entry["name"]], "fields": fields}
        functions.append(
            {
                **each,
                "parameters": [_renamed(parameter, new) for parameter in each["parameters"]],
                "returns": _with_names(each["returns"], new),
                **{
                    what: _with_names(each[what], new)
                    for what in ("request", "response")
                    if each.get(what)
                },
            }
        )
    return types, functions


def _free(entry: Any, names: dict[tuple[str, str], str], taken: set[str]) -> str:
    """Return the name of a type in the module: its own, unless another type has it."""
    key = (entry["origin"], repr(entry["fields"]))
    if key not in names:
        names[key] = _unique(entry["name"], taken | set(names.values()))
    return names[key]


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}{number}"
    return found


def _renamed(entry: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    default = entry["default"]
    return {
        **entry,
        "type": _with_names(entry["type"], new) if entry["type"] else "",
        "default": default if default is None else _with_names(default, new),
    }


def _with_names(text: str, new: Mapping[str, str]) -> str:
    """Return an expression with some names replaced."""
    if all(old == name for old, name in new.items()):
        return text
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text  # `Annotations` refuses it later
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = new.get(node.id, node.id)
    try:
        return ast.unparse(tree)
    except RecursionError:
        return text


def _documented(lines: list[str], entry: Mapping[str, Any]) -> list[str]:
    """Return the declaration of a class with a docstring."""
    if entry["name"] in lines[0].split(" = "):  # it is not a class statement
        return lines
    at = next(number for number, line in enumerate(lines, 1) if line.endswith(":"))
    rest = [] if lines[at:] == [f"{_INDENT}pass"] else ["", *lines[at:]]
    return [*lines[:at], *_doc(f"`{entry['name']}` of the server.", 1), *rest]


def _protocol(
    group: str,
    members: Sequence[Description],
    taken: set[str],
    annotations: Annotations,
    style: _Style,
) -> list[str]:
    plain = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W+", group))
    name = _unique(f"{plain}Group" if is_name(f"{plain}Group") else f"Group{plain}", taken)
    if not is_name(name):
        raise Failed(f"the server describes a group {group!r}, which cannot be the name of a class")
    taken.add(name)
    protocol = annotations.need("typing", "Protocol")
    named = f"@{annotations.need('rap', 'interface')}(group={quoted(group)})"
    if len(named) > WIDTH:
        named = named.replace("(", f"(\n{_INDENT}", 1)[:-1] + "\n)"
    lines = [
        named,
        f"class {name}({protocol}):",
        *_doc(f"Functions of the group {group!r}; `client.bind({name})` makes them.", 1),
    ]
    for each in members:
        lines += ["", *_method(each, annotations, style)]
    return lines


def _method(each: Description, annotations: Annotations, style: _Style) -> list[str]:
    name = each["func_name"]
    given = [parameter["name"] for parameter in each["parameters"]]
    if not is_name(name) or name.startswith("_") or "self" in given:
        return [
            f"{_INDENT}# {one_line(name)}: its names cannot be those of a method;",
            f"{_INDENT}# client.raw_call calls it by name.",
        ]
    rows = ["self", *parameters(map(_for_callers(each), each["parameters"]), annotations)]
    if each["shape"] in ("stream", "bidi"):
        head = f"{_INDENT}def {name}"
        returns = annotations.item(each["returns"], style.iterator)
    else:
        head = f"{_INDENT}{style.async_}def {name}"
        returns = annotations.type(each["returns"])
    doc = each["doc"] or f"Call `{name}`."
    marks = []
    if each["idempotent"]:
        doc += "\n\nIdempotent: calling it twice has the same effect as calling it once."
        marks = [f"{_INDENT}@{annotations.outside_class('rap', 'idempotent')}"]
    return [*marks, *_signature(head, rows, returns, 1), *_doc(doc, 2), f"{_INDENT * 2}..."]


def _for_callers(each: Description) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return what replaces the type of the request stream: a caller may pass any iterable."""

    def replace(parameter: Mapping[str, Any]) -> Mapping[str, Any]:
        if parameter["name"] != each.get("stream_parameter"):
            return parameter
        item = each["request"]
        either = f"collections.abc.AsyncIterable[{item}] | collections.abc.Iterable[{item}]"
        return {**parameter, "type": either}

    return replace


def _channel(
    each: Description, taken: set[str], annotations: Annotations, style: _Style
) -> list[list[str]]:
    """Return the blocks of a channel function: its declaration, and what callers call."""
    name, group = each["func_name"], each["group"]
    plain = re.sub(r"\W", "_", name if group == "default" else f"{group}_{name}")
    plain = _unique(plain if is_name(plain) else f"open_{plain}", taken)
    declared = _unique(f"_{plain}".replace("__", "_"), taken)
    taken |= {plain, declared}
    given = each.get("channel_parameter")
    others = [it for it in each["parameters"] if it["name"] != given and not _is_channel(it)]
    names = {it["name"] for it in others}
    client, talk, channel = (_unique(it, names) for it in ("client", "talk", "channel"))
    kind = _channel_type(each, annotations, style)
    define = f"{style.async_}def"
    returns = annotations.type(each["returns"])
    typed = parameters(others, annotations)
    rows = [f"{client}: {style.client}", _callback(talk, kind, style.given("T")), *typed]
    doc = each["doc"] or f"Open the channel `{name}`."
    doc += f"\n\nArgs:\n    {client}: Opens the channel.\n"
    doc += f"    {talk}: Runs here with the channel; its result is returned."
    doc += "" if returns == "None" else " If that is `None`, the result of the server is."
    call = [client, declared, quoted(name), quoted(group), talk, *_passed(others)]
    body = [*_doc(doc, 1), *_call(f"{_INDENT}return {style.await_}_open", call)]
    declaration = [
        *_signature(f"{define} {declared}", [f"{channel}: {kind}", *typed], returns, 0),
        f"{_INDENT}raise NotImplementedError",
    ]
    if returns == "None":
        return [declaration, [*_signature(f"{define} {plain}", rows, "T", 0), *body]]
    if returns == "Any":
        rows[1] = _callback(talk, kind, style.given("Any"))
        return [declaration, [*_signature(f"{define} {plain}", rows, "Any", 0), *body]]
    overload = f"@{annotations.need('typing', 'overload')}"
    blocks = [declaration]
    for value, result in (("None", returns), ("T", "T")):
        rows[1] = _callback(talk, kind, style.given(value))
        head = _signature(f"{define} {plain}", rows, result, 0)
        blocks.append([overload, *head[:-1], f"{head[-1]} ..."])
    rows[1] = _callback(talk, kind, style.given("Any"))
    return [*blocks, [*_signature(f"{define} {plain}", rows, "Any", 0), *body]]


def _is_channel(parameter: Mapping[str, Any]) -> bool:
    """Whether it is the Channel of a function that an older server describes."""
    return bool(parameter["type"] == "rap.channel.Channel")


def _channel_type(each: Description, annotations: Annotations, style: _Style) -> str:
    """Return the type of the channel as the client sees it: it reads what the server writes."""
    read, written = (each.get(it) or "typing.Any" for it in ("response", "request"))
    if read == written == "typing.Any":
        return annotations.type(style.channel)
    return annotations.type(f"{style.channel}[{read}, {written}]")


def _callback(name: str, channel: str, value: str) -> str:
    """Return the parameter for the function that a caller runs with the channel."""
    row = f"{name}: Callable[[{channel}], {value}]"
    if len(row) + len(_INDENT) < WIDTH:  # a comma follows
        return row
    return f"{name}: Callable[\n{_INDENT * 2}[{channel}], {value}\n{_INDENT}]"


def _passed(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the arguments that pass on all parameters."""
    forms = {"keyword": "{0}={0}", "rest": "*{0}", "names": "**{0}"}
    return [forms.get(each["kind"], "{0}").format(each["name"]) for each in entries]


def _call(head: str, arguments: Iterable[str]) -> list[str]:
    """Return a call, with one argument per line if it is long."""
    arguments = list(arguments)
    line = f"{head}({', '.join(arguments)})"
    if len(line) <= WIDTH:
        return [line]
    inner = f"{_INDENT * 2}{', '.join(arguments)}"
    if len(inner) <= WIDTH:
        return [f"{head}(", inner, f"{_INDENT})"]
    return [f"{head}(", *(f"{_INDENT * 2}{each}," for each in arguments), f"{_INDENT})"]


def _signature(head: str, rows: Iterable[str], returns: str, depth: int) -> list[str]:
    rows = list(rows)
    line = f"{head}({', '.join(rows)}) -> {returns}:"
    if len(line) <= WIDTH and "\n" not in line:
        return [line]
    inner = _INDENT * (depth + 1)
    return [f"{head}(", *(f"{inner}{row}," for row in rows), f"{_INDENT * depth}) -> {returns}:"]


def _doc(text: str, depth: int) -> list[str]:
    """Return a docstring."""
    indent = _INDENT * depth
    quotes = 3 if "\n" in text.strip() else 6
    width = WIDTH - len(indent) - quotes
    lines: list[str] = []
    for line in text.strip().split("\n"):
        clean = "".join(c if c.isprintable() else " " for c in line).rstrip()
        clean = clean.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
        space = clean[: len(clean) - len(clean.lstrip())]
        lines += textwrap.wrap(
            clean, width, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
        ) or [""]
    if len(lines) == 1:
        end = " " if lines[0].endswith('"') else ""
        return [f'{indent}"""{lines[0]}{end}"""']
    return [
        f'{indent}"""{lines[0]}',
        *(f"{indent}{line}".rstrip() for line in lines[1:]),
        f'{indent}"""',
    ]


def _imports(needed: Iterable[tuple[str, str]]) -> list[str]:
    """Return import statements: the standard library first, then other packages."""
    modules: dict[str, set[str]] = {}
    for module, name in needed:
        modules.setdefault(module, set()).add(name)
    sections: list[list[str]] = [[], []]
    for module in sorted(modules):
        other = module.partition(".")[0] in ("msgspec", "pydantic", "rap")
        names = sorted(modules[module] - {""}, key=_order)
        lines = [f"import {module}"] if "" in modules[module] else []
        if names:
            line = f"from {module} import {', '.join(names)}"
            if len(line) > WIDTH:
                line = f"from {module} import (\n" + "".join(f"    {n},\n" for n in names) + ")"
            lines.append(line)
        sections[other] += lines
    for section in sections:
        section.sort(key=lambda line: (line.startswith("from"), line.split()[1].lower()))
    return [*sections[0], *([""] if all(sections) else []), *sections[1]]


def _order(name: str) -> tuple[int, str]:
    """Return the sort key of a name in an import: constants, then classes, then functions."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name.lower()
