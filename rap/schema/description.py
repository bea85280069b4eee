"""The description of a function and its types as data; `rap.schema.reflection` makes it."""

from typing import TypedDict

__all__ = ["FieldEntry", "FunctionDescription", "ParameterEntry", "TypeEntry"]


class FieldEntry(TypedDict):
    """A field of a class, or a member of an enum, whose default is its value.

    ``default`` is a Python expression, ``...`` for a default without a literal, or `None` without a
    default.
    """

    name: str
    type: str
    default: str | None


class TypeEntry(TypedDict):
    """A class whose instances are sent as data.

    ``kind`` is dataclass, typed_dict, named_tuple, enum, struct or model. ``origin`` distinguishes
    classes with the same name. ``options`` are keyword arguments of the class or its decorator, as
    text.
    """

    name: str
    origin: str
    kind: str
    options: dict[str, str]
    fields: list[FieldEntry]


class ParameterEntry(TypedDict):
    """A parameter.

    ``kind`` is empty, positional (positional-only), keyword (keyword-only), rest (``*args``) or
    names (``**kwargs``). ``default`` is as in `FieldEntry`.
    """

    name: str
    kind: str
    type: str
    default: str | None


class FunctionDescription(TypedDict):
    """A function; ``shape`` is its stream type: unary, stream, client_stream, bidi or channel.

    ``stream_parameter`` and ``channel_parameter`` name the parameter that is the request stream or
    the Channel. ``request`` and ``response`` are the types of the items, or of the messages of a
    channel, that the caller sends and receives. Each is `None` if the function has none.
    """

    group: str
    func_name: str
    shape: str
    doc: str
    is_private: bool
    idempotent: bool
    parameters: list[ParameterEntry]
    stream_parameter: str | None
    channel_parameter: str | None
    request: str | None
    response: str | None
    returns: str
    types: list[TypeEntry]
