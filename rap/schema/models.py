"""Models of pydantic: how they are sent, and which of them cannot be sent.

A model is sent as the map that `model_dump` returns, with the names of its fields, and validated
when it arrives. `Model` looks through the core schema of a model once, so that the two are
inverse. This module does not import pydantic: a model exists only if the user has imported it.
"""

import datetime
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rap.schema.shapes import ANY_FORM, Record, Shape, form_of_value, look_alike, with_offsets

__all__ = ["Model", "make_adapter"]

# Types in a core schema that have no form in msgpack, and what they are called.
_UNSENDABLE = {
    "callable": "a callable",
    "is-subclass": "a class",
    "is-instance": "an arbitrary type",
    "generator": "an Iterable, which pydantic reads only once",
    "complex": "a complex number",
}
# Types that strict validation accepts from JSON text, but not from Python values.
_STRICT_ONLY_JSON = frozenset(
    "uuid decimal date time datetime timedelta tuple set frozenset enum url multi-host-url"
    " lax-or-strict json-or-python dataclass deque".split()
)
_FORMS = {
    "none": "nil",
    "bool": "bool",
    "int": "int",
    "str": "str",
    "bytes": "bin",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "frozenset": "array",
    "dict": "map",
    "deque": "array",
    "ordered-dict": "map",
    "counter": "map",
    "default-dict": "map",
    "model-fields": "map",
    "dataclass": "map",
    "typed-dict": "map",
    **dict.fromkeys(("date", "time", "timedelta", "uuid", "decimal", "url"), "str"),
    **dict.fromkeys(("multi-host-url", "json", "function-plain"), "str"),
}
_TEXTS = frozenset({"date", "time", "timedelta", "uuid", "decimal", "url", "function-wrap"})
_SKIPPED = ("serialization", "metadata", "default", "cls", "config", "computed_fields", "function")


def make_adapter(hint: Any) -> Any:
    """Return pydantic's adapter of a type."""
    return sys.modules["pydantic"].TypeAdapter(hint)


class Model:
    """How the values of one model, or of another type of pydantic, are sent.

    Args:
        schema: Its core schema; empty for a class that only looks like a model.
        validate: Plain value → value of the type.
        validate_json: JSON text → value of the type.

    Attributes:
        problem: Why it cannot be sent, or `None`.
        dump_options: Arguments of `model_dump`.
        parses: Whether it makes another value of the one that it is given, as `Json` does.
        keeps_offsets: Whether datetimes keep their offset from UTC: they are sent as text, which
            nothing else in the model could be taken for.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        validate: Callable[..., Any],
        validate_json: Callable[..., Any] | None = None,
    ) -> None:
        survey = _Survey(schema)
        self.problem = survey.problem
        self.dump_options = {"round_trip": True} if survey.round_trip else {}
        if survey.one_way_alias:
            self.dump_options["by_alias"] = False
        self.parses = "json" in survey.types or "serialization" in schema
        self.keeps_offsets = bool(schema) and not (
            "any" in survey.types or ("union" in survey.types and "str" in survey.types)
        )
        self.shape = survey.shape()
        options: dict[str, Any] = {}
        if survey.aliases and not survey.by_name:
            if "by_name" in inspect.signature(validate).parameters:
                options = {"by_name": True, "by_alias": not survey.swaps}
            else:
                self.problem = self.problem or (
                    f"field {survey.aliases[0]!r} has an alias; set populate_by_name=True,"
                    f" or install pydantic 2.11"
                )
        self.validate: Callable[[Any], Any] = functools.partial(validate, **options)
        if survey.strict and survey.types & _STRICT_ONLY_JSON and validate_json is not None:
            if survey.types & {"bytes", "any"}:
                self.problem = self.problem or (
                    "it is strict, and has bytes or Any together with types that strict validation"
                    " accepts only from JSON"
                )
            import json  # few models need it

            strict = functools.partial(validate_json, **options)
            self.validate = lambda value: strict(json.dumps(value, default=_to_json))

    @classmethod
    def of_class(cls, kind: Any) -> "Model":
        """Return the `Model` of a pydantic model."""
        if hasattr(kind, "__pydantic_core_schema__"):
            kind.model_rebuild()
            schema = kind.__pydantic_core_schema__
            if isinstance(schema, Mapping) and "type" in schema:
                return cls(schema, kind.model_validate, kind.model_validate_json)
        return cls({}, kind.model_validate)

    @classmethod
    def of_type(cls, kind: Any) -> "Model":
        """Return the `Model` of another type that pydantic validates."""
        adapter = make_adapter(kind)
        return cls(adapter.core_schema, adapter.validate_python, adapter.validate_json)

    def dump(self, value: Any) -> Any:
        """Return a model as the plain value that is sent."""
        plain = value.model_dump(**self.dump_options)
        return with_offsets(plain) if self.keeps_offsets else plain


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(f"expected a JSON value, got `{type(value).__name__}`")


class _Survey:
    """What a core schema of pydantic holds."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.types: set[str] = set()
        self.strict = self.round_trip = self.swaps = self.one_way_alias = False
        self.by_name = True
        self.aliases: list[str] = []
        self.problem: str | None = None
        self._schema = schema
        self._definitions: dict[str, Any] = {}
        self._refs(schema)
        self._visit(schema, {}, "")

    def shape(self) -> Shape:
        """Return what its values look like."""
        if not self._schema:
            return Shape(frozenset({"map"}))
        return self._shape(self._schema)

    def _refs(self, node: Any) -> None:
        for each in _inner(node):
            if isinstance(each, Mapping) and "ref" in each:
                self._definitions[each["ref"]] = each
            self._refs(each)

    def _visit(self, node: Any, config: Mapping[str, Any], where: str) -> None:
        if not isinstance(node, Mapping):
            for each in _inner(node):
                self._visit(each, config, where)
            return
        kind = node.get("type", "")
        if isinstance(kind, str):
            self.types.add(kind)
        config = node.get("config") or config
        own = node.get("strict") and kind in _STRICT_ONLY_JSON
        self.strict |= bool(own or config.get("strict"))
        if kind == "model" and node["cls"].__module__ == "pydantic.main":
            self._refuse(where, "a model of any class")
        elif kind in _UNSENDABLE:
            self._refuse(where, _UNSENDABLE[kind])
        elif kind == "json":
            self.round_trip = True
        elif kind in ("set", "frozenset") and self._is_record(node.get("items_schema")):
            self._refuse(where, "a set of models")
        elif kind == "dict" and self._shape(node.get("keys_schema")).forms & {"array", "map"}:
            self._refuse(where, "a dict whose keys are arrays or maps")
        elif kind == "union" and "custom_error_type" not in node:  # one of pydantic's own
            self._check_union(node, where)
        if kind in ("model-fields", "dataclass-args", "typed-dict"):
            self._visit_fields(node, config, where)
            return
        for each in _inner(node):
            self._visit(each, config, where)

    def _visit_fields(self, node: Mapping[str, Any], config: Mapping[str, Any], where: str) -> None:
        extra = node.get("extra_behavior") or config.get("extra_fields_behavior")
        if node.get("computed_fields") and extra in ("forbid", "allow"):
            self.round_trip = True  # which leaves them out
        fields = node["fields"]
        pairs = fields.items() if isinstance(fields, Mapping) else [(f["name"], f) for f in fields]
        names = {name for name, _ in pairs}
        for name, field in pairs:
            inner = f"{where}.{name}" if where else name
            alias = field.get("validation_alias")
            if alias is not None:
                self.aliases.append(inner)
                self.by_name &= bool(
                    config.get("validate_by_name") or config.get("populate_by_name")
                )
                self.swaps |= bool(_names(alias) & (names - {name}))
            if config.get("serialize_by_alias"):
                sent_as = field.get("serialization_alias")
                self.one_way_alias |= sent_as not in (None, name, *_names(alias))
            required = field["schema"].get("type") != "default" and field.get("required", True)
            if field.get("serialization_exclude") and required:
                self._refuse(inner, "a required field that is never sent (exclude=True)")
            self._visit(field["schema"], config, inner)

    def _check_union(self, node: Mapping[str, Any], where: str) -> None:
        types = {each.get("type") for each in _choices(node)}
        if "decimal" in types and types & {"int", "float"}:
            self._refuse(where, "a union of Decimal and a number, which would read its text")
        if "bytes" in types and types & _TEXTS:
            self._refuse(where, "a union of bytes and a type that is sent as text")
        choices = [self._shape(each) for each in _choices(node)]
        for number, one in enumerate(choices):
            for other in choices[:number]:
                if one.forms == ANY_FORM or other.forms == ANY_FORM:
                    continue
                if reason := look_alike(other, one):
                    self._refuse(where, f"a union whose members look alike when sent: {reason}")

    def _refuse(self, where: str, what: str) -> None:
        if self.problem is None:
            self.problem = f"field {where!r} is {what}" if where else f"it is {what}"

    def _is_record(self, node: Any) -> bool:
        return self._shape(node).forms == {"map"}

    def _shape(self, node: Any, depth: int = 0) -> Shape:
        if not isinstance(node, Mapping) or depth > 40:
            return Shape(ANY_FORM)
        kind = node.get("type", "")
        found: Shape
        if kind == "definition-ref":
            found = self._shape(self._definitions.get(node["schema_ref"]), depth + 1)
        elif kind == "model" and node.get("root_model"):
            inner = node["schema"]
            while inner.get("type") != "model-fields" and "schema" in inner:
                inner = inner["schema"]
            fields = inner.get("fields", {})
            found = self._shape(fields.get("root", {}).get("schema", inner), depth + 1)
        elif kind == "model":
            name = node["cls"].__name__
            found = Shape(frozenset({"map"}), None, self._record(name, node["schema"]))
        elif kind == "nullable":
            found = self._shape(node["schema"], depth + 1)
            found = Shape(found.forms | {"nil"}, None, found.record)
        elif kind == "literal":
            found = _values(node["expected"])
        elif kind == "enum":
            found = _values([each.value for each in node["members"]])
        elif kind in ("union", "tagged-union"):
            shapes = [self._shape(each, depth + 1) for each in _choices(node)]
            found = Shape(frozenset().union(*(each.forms for each in shapes)))
        elif kind == "float":
            found = Shape(frozenset({"float", "int"}))
        elif kind == "datetime":
            found = Shape(frozenset({"time", "str"}))
        elif kind == "lax-or-strict":
            found = self._shape(node["lax_schema"], depth + 1)
        elif kind == "json-or-python":
            found = self._shape(node["json_schema"], depth + 1)
        elif kind == "chain":
            found = self._shape(node["steps"][-1], depth + 1)
        elif kind in _FORMS:
            found = Shape(frozenset({_FORMS[kind]}))
        elif "schema" in node:
            found = self._shape(node["schema"], depth + 1)
        else:
            found = Shape(ANY_FORM)
        return found

    def _record(self, name: str, node: Any) -> Record | None:
        while node.get("type") != "model-fields":
            node = node.get("schema")
            if not isinstance(node, Mapping):
                return None
        fields = node["fields"]
        required = {n for n, f in fields.items() if f["schema"].get("type") != "default"}
        sent = {n for n, f in fields.items() if not f.get("serialization_exclude")}
        literals = {}
        for each, field in fields.items():
            schema = field["schema"]
            schema = schema["schema"] if schema.get("type") == "default" else schema
            if schema.get("type") in ("literal", "enum"):
                values = _values(schema.get("expected") or [m.value for m in schema["members"]])
                literals[each] = values.values or frozenset()
        return Record(name, frozenset(fields), frozenset(sent), frozenset(required), literals)


def _inner(node: Any) -> Iterator[Any]:
    """Yield the nodes of a core schema below this one, those for values that arrive as text."""
    if isinstance(node, Mapping):
        if node.get("type") == "lax-or-strict":
            yield node["lax_schema"]
        elif node.get("type") == "json-or-python":
            yield node["json_schema"]
        else:
            for key, value in node.items():
                if key not in _SKIPPED and isinstance(value, Mapping | list | tuple):
                    yield value
    elif isinstance(node, list | tuple):
        yield from (each for each in node if isinstance(each, Mapping | list | tuple))


def _choices(node: Mapping[str, Any]) -> list[Any]:
    choices = node["choices"]
    found = choices.values() if isinstance(choices, Mapping) else choices
    return [each[0] if isinstance(each, tuple) else each for each in found]


def _names(alias: Any) -> set[str]:
    """Return the first keys of an alias: `None`, a name, a path, or a list of paths."""
    if isinstance(alias, str):
        return {alias}
    paths = alias if alias and isinstance(alias[0], list) else [alias or ()]
    return {str(path[0]) for path in paths if path}


def _values(values: Any) -> Shape:
    found = [getattr(each, "value", each) for each in values]
    keys = frozenset((form_of_value(each), each) for each in found)
    return Shape(frozenset(form for form, _ in keys), keys)
