"""What values look like when they are sent, by which the members of a union are told apart.

A union carries no tag. Its receiver chooses the member by the form of the value in msgpack, by the
value itself if the members are enums or literals, and by the names of the fields if they are
classes. A field whose type is a `Literal`, and the tag of a Struct, count as well.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "ANY_FORM",
    "Record",
    "Shape",
    "form_of_value",
    "look_alike",
    "make_chooser",
    "with_offsets",
]

# The forms of a value in msgpack, and what errors call them.
_NAMES = {
    "nil": "null",
    "bool": "bool",
    "int": "int",
    "float": "float",
    "str": "str",
    "bin": "bytes",
    "array": "array",
    "map": "object",
    "time": "datetime",
}
ANY_FORM = frozenset(_NAMES)
_BY_TYPE: Mapping[type, str] = {
    type(None): "nil",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bin",
    list: "array",
    tuple: "array",
    dict: "map",
    datetime.datetime: "time",
}


class Record(NamedTuple):
    """The fields of a class that is sent as a map.

    Args:
        name: Its name in errors.
        known: The names of all fields.
        sent: The names that each value of this release has.
        required: The names without which a value is not accepted.
        literals: The name of a field that has few values → these, as (form, value).
    """

    name: str
    known: frozenset[str]
    sent: frozenset[str]
    required: frozenset[str]
    literals: Mapping[str, frozenset[tuple[str, Any]]]


class Shape(NamedTuple):
    """What the values of a type look like.

    Args:
        forms: Their forms in msgpack.
        values: All values, as (form, value), of an enum or a literal; otherwise `None`.
        record: Their fields, of a class that is sent as a map.
    """

    forms: frozenset[str]
    values: frozenset[tuple[str, Any]] | None = None
    record: Record | None = None


# Name of a member, its shape, and what makes a value of it from a plain one.
Member = tuple[str, Shape, Callable[[Any], Any]]


def form_of_value(value: Any) -> str:
    """Return the form of a plain value."""
    return _BY_TYPE.get(type(value), "")


def look_alike(one: Shape, other: Shape) -> str:
    """Return why values of two types cannot be told apart, or an empty string."""
    common = one.forms & other.forms
    if "int" in common and "float" in one.forms ^ other.forms:
        common -= {"int"}  # an int belongs to the type that is only int
    if one.values is not None and other.values is not None:
        return "they have the same values" if one.values & other.values else ""
    if common == {"map"} and one.record and other.record:
        return _same_fields(one.record, other.record)
    return " and ".join(f"both can be `{_NAMES[form]}`" for form in sorted(common))


def make_chooser(members: Sequence[Member]) -> Callable[[Any], Any]:
    """Return what makes a value of one of the members from a plain value.

    Raises:
        TypeError: Two members cannot be told apart; the message names them.
    """
    for number, (name, shape, _) in enumerate(members):
        for other, other_shape, _ in members[:number]:
            if reason := look_alike(other_shape, shape):
                raise TypeError(
                    f"`{other}` and `{name}` cannot be told apart when they are sent: {reason}"
                )
    by_form: dict[str, Callable[[Any], Any]] = {}
    for form in _NAMES:
        having = [each for each in members if form in each[1].forms]
        if form == "int" and len(having) > 1:
            having = [each for each in having if "float" not in each[1].forms] or having
        if len(having) == 1:
            by_form[form] = having[0][2]
        elif having and form == "map":
            by_form[form] = _by_fields(having)
        elif having:
            by_form[form] = _by_value(having)
    expected = " | ".join(name for form, name in _NAMES.items() if form in by_form)

    def choose(value: Any) -> Any:
        form = form_of_value(value)
        convert = by_form.get(form)
        if convert is None:
            got = _NAMES.get(form, type(value).__name__)
            raise TypeError(f"expected `{expected}`, got `{got}`")
        return convert(value)

    return choose


def _by_value(members: Sequence[Member]) -> Callable[[Any], Any]:
    by_value = {key: convert for _, shape, convert in members for key in shape.values or ()}

    def choose(value: Any) -> Any:
        convert = by_value.get((form_of_value(value), value))
        if convert is None:
            raise ValueError(f"invalid enum value {value!r}")
        return convert(value)

    return choose


def _by_fields(members: Sequence[Member]) -> Callable[[Any], Any]:
    """Return what chooses the class that fits, and of several the one that knows most fields."""
    records = [(shape.record, convert) for _, shape, convert in members if shape.record]
    names = " | ".join(record.name for record, _ in records)

    def fits(record: Record, value: Mapping[Any, Any]) -> bool:
        if not record.required <= value.keys():
            return False
        for name, values in record.literals.items():
            if name in value:
                found = value[name]
                form = form_of_value(found)
                if form in ("", "array", "map") or (form, found) not in values:
                    return False
        return True

    def choose(value: Mapping[Any, Any]) -> Any:
        fitting = [each for each in records if fits(each[0], value)]
        if len(fitting) > 1:
            counts = [len(record.known & value.keys()) for record, _ in fitting]
            most = max(counts)
            fitting = [each for each, count in zip(fitting, counts, strict=True) if count == most]
        if len(fitting) != 1:
            found = sorted(map(str, value))[:10]
            why = "no" if not fitting else "more than one"
            raise ValueError(f"expected `{names}`, got an object that fits {why} member: {found}")
        return fitting[0][1](value)

    return choose


def _same_fields(one: Record, other: Record) -> str:
    for name in one.literals.keys() & other.literals.keys() & one.sent & other.sent:
        if not one.literals[name] & other.literals[name]:
            return ""
    if (one.sent <= other.known and other.required <= one.known) or (
        other.sent <= one.known and one.required <= other.known
    ):
        return (
            "the fields of one fit the other; give each a required field that the other does not"
            " have, or a field with a Literal type, or use msgspec.Struct with tag=True"
        )
    return ""


def with_offsets(plain: Any) -> Any:
    """Return a plain value whose aware datetimes that are not in UTC are text with the offset.

    A value without any is returned as it is. An offset that has seconds cannot be written as text.
    """
    if isinstance(plain, datetime.datetime):
        offset = plain.utcoffset()
        if not offset or offset % datetime.timedelta(minutes=1):
            return plain
        return plain.isoformat()
    found: Any
    if type(plain) is dict:
        found = {key: with_offsets(value) for key, value in plain.items()}
        changed = any(found[key] is not value for key, value in plain.items())
    elif type(plain) in (list, tuple):
        found = [with_offsets(each) for each in plain]
        changed = any(one is not other for one, other in zip(found, plain, strict=True))
    else:
        return plain
    return found if changed else plain
