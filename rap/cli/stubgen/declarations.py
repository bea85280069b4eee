"""Classes and parameters from descriptions, as Python source."""

from collections.abc import Iterable, Mapping
from typing import Any

from rap.cli.command import Failed
from rap.cli.stubgen.annotations import Annotations, is_name, quoted

__all__ = ["WIDTH", "declare", "parameters"]

WIDTH = 88  # characters per line, the default of most formatters

_UNWRITTEN = "..."  # a default that has no literal form
_FACTORIES = ("list", "dict", "set", "tuple", "bytearray")
_OPTIONS = {
    *("array_like", "forbid_unknown_fields", "frozen", "kw_only", "omit_defaults", "rename"),
    *("tag", "tag_field"),
}
_ENUMS = ("Enum", "Flag", "IntEnum", "IntFlag", "StrEnum")


def declare(entry: Mapping[str, Any], annotations: Annotations) -> list[str]:
    """Return the lines that declare a class.

    Raises:
        Failed: No class can have this description.
    """
    name, kind, fields = entry["name"], entry["kind"], entry["fields"]
    if kind == "typed_dict" and not all(is_name(each["name"]) for each in fields):
        return _functional(name, fields, annotations)
    for each in fields:
        if not is_name(each["name"]):
            raise Failed(
                f"the server describes a field of {name} as {each['name']!r}, which is not a name"
            )
    if kind == "enum":
        head = _enum_head(name, entry["options"], annotations)
        body = [f"{each['name']} = {annotations.constant(each['default'])}" for each in fields]
    else:
        options = {
            option: annotations.constant(text)
            for option, text in entry["options"].items()
            if option in _OPTIONS
        }
        if _is_mixed(fields) and kind in ("dataclass", "struct"):
            options["kw_only"] = "True"
        head = _head(name, kind, options, annotations)
        body = [_field(each, kind, annotations) for each in fields]
    return [*head, *(f"    {line}" for line in body or ["pass"])]


def parameters(entries: Iterable[Mapping[str, Any]], annotations: Annotations) -> list[str]:
    """Return parameters, and the ``/`` and ``*`` between them.

    A parameter whose default has no literal form is keyword-only and has no default.
    """
    found: list[str] = []
    marked = False
    optional = False
    pending = False  # a ``/`` has to follow
    later: list[str] = []
    for each in entries:
        if not is_name(each["name"]):
            raise Failed(f"the server describes a parameter {each['name']!r}, which is not a name")
        text = f"{each['name']}: {annotations.type(each['type'])}"
        kind, default = each["kind"], each["default"]
        if pending and kind != "positional":
            found.append("/")
            pending = False
        if kind == "rest":
            found.append(f"*{text}")
            marked = True
        elif kind == "names":
            later.append(f"**{text}")
        elif kind == "keyword" or (default == _UNWRITTEN and kind == "" and optional):
            if default is not None and default != _UNWRITTEN:
                text = f"{text} = {annotations.default(default)}"
            later.append(text)
        else:
            pending = kind == "positional"
            if default is not None and default != _UNWRITTEN:
                optional = True
                text = f"{text} = {annotations.default(default)}"
            found.append(text)
    if pending:
        found.append("/")
    if later and not marked and not later[0].startswith("**"):
        found.append("*")
    return found + later


def _is_mixed(fields: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a required field follows an optional one."""
    optional = False
    for each in fields:
        needed = each["default"] in (None, _UNWRITTEN)
        if needed and optional:
            return True
        optional = optional or not needed
    return False


def _head(name: str, kind: str, options: dict[str, str], annotations: Annotations) -> list[str]:
    given = {option: f"{option}={text}" for option, text in options.items()}
    if kind == "dataclass":
        decorator = annotations.need("dataclasses", "dataclass")
        how = f"({', '.join(given.values())})" if given else ""
        return [f"@{decorator}{how}", f"class {name}:"]
    bases = {
        "typed_dict": ("typing", "TypedDict"),
        "named_tuple": ("typing", "NamedTuple"),
        "struct": ("msgspec", "msgspec.Struct"),
        "model": ("pydantic", "pydantic.BaseModel"),
    }
    if kind not in bases:
        raise Failed(f"the server describes {name} as a {kind!r}, which is unknown")
    base = annotations.need(*bases[kind])
    arguments = [base, *(given.values() if kind == "struct" else ())]
    line = f"class {name}({', '.join(arguments)}):"
    if len(line) <= WIDTH:
        return [line]
    return [f"class {name}(", *(f"    {each}," for each in arguments), "):"]


def _enum_head(name: str, options: Mapping[str, str], annotations: Annotations) -> list[str]:
    base = options.get("base", "Enum")
    if base not in _ENUMS:
        raise Failed(f"the server describes {name} as an enum of {base!r}, which is unknown")
    mixed = f"{options['mixed']}, " if options.get("mixed") in ("str", "int") else ""
    return [f"class {name}({mixed}{annotations.need('enum', base)}):"]


def _field(entry: Mapping[str, Any], kind: str, annotations: Annotations) -> str:
    text = f"{entry['name']}: {annotations.type(entry['type'])}"
    default = entry["default"]
    if default is None or default == _UNWRITTEN:
        return text
    if default not in _FACTORIES:
        return f"{text} = {annotations.default(default)}"
    module = {"struct": "msgspec", "model": "pydantic"}.get(kind, "dataclasses")
    # With the module, because a field may be called ``field``.
    made = annotations.need(module, f"{module}.{'Field' if kind == 'model' else 'field'}")
    factory = annotations.factory(default, entry["type"])
    line = f"{text} = {made}(default_factory={factory})"
    if len(line) + 4 <= WIDTH:
        return line
    return f"{text} = {made}(\n        default_factory={factory}\n    )"


def _functional(
    name: str, fields: Iterable[Mapping[str, Any]], annotations: Annotations
) -> list[str]:
    base = annotations.need("typing", "TypedDict")
    rows = [f"        {quoted(each['name'])}: {annotations.type(each['type'])}," for each in fields]
    return [f"{name} = {base}(", f'    "{name}",', "    {", *rows, "    },", ")"]
