"""One function as data: what its callers have to know of it, types included."""

from inspect import Parameter
from typing import TypedDict

from rap.server.router import Handler
from rap.server.type_text import TypeEntry, TypeTexts

__all__ = ["Description", "ParameterEntry", "describe"]

_KINDS = {
    Parameter.POSITIONAL_ONLY: "positional",
    Parameter.POSITIONAL_OR_KEYWORD: "",
    Parameter.VAR_POSITIONAL: "rest",
    Parameter.KEYWORD_ONLY: "keyword",
    Parameter.VAR_KEYWORD: "names",
}


class ParameterEntry(TypedDict):
    """A parameter.

    ``kind`` is empty or positional, keyword (only those), rest (``*args``) or names
    (``**kwargs``); ``default`` is as in `rap.server.type_text.FieldEntry`.
    """

    name: str
    kind: str
    type: str
    default: str | None


class Description(TypedDict):
    """A function; ``shape`` is unary, stream or channel, texts are as in `rap.server.type_text`."""

    group: str
    func_name: str
    shape: str
    doc: str
    is_private: bool
    idempotent: bool
    parameters: list[ParameterEntry]
    returns: str
    types: list[TypeEntry]


def describe(handler: Handler) -> Description:
    """Return what callers have to know of a function."""
    texts = TypeTexts()
    signature = handler.function.signature
    parameters = [
        ParameterEntry(
            name=each.name,
            kind=_KINDS[each.kind],
            type=texts.text(each.annotation),
            default=None if each.default is Parameter.empty else texts.default(each.default),
        )
        for each in signature.parameters.values()
    ]
    return {
        "group": handler.group,
        "func_name": handler.name,
        "shape": handler.shape.value,
        "doc": handler.doc,
        "is_private": handler.is_private,
        "idempotent": handler.idempotent,
        "parameters": parameters,
        "returns": texts.text(signature.return_annotation),
        "types": texts.entries,
    }
