"""The protobuf messages that gRPC peers send, made from a description instead of a compiler.

The classes are the same that protoc would make: upb builds both from a descriptor.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from bench.payload import FIELDS

__all__ = ["Addends", "Blob", "Number", "Rows", "to_rows"]

_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    int: _Field.TYPE_INT64,
    str: _Field.TYPE_STRING,
    float: _Field.TYPE_DOUBLE,
    bool: _Field.TYPE_BOOL,
    bytes: _Field.TYPE_BYTES,
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    schemas: dict[str, tuple[tuple[str, type], ...]] = {
        "Addends": (("a", int), ("b", int)),
        "Number": (("value", int),),
        "Blob": (("data", bytes),),
        "Row": FIELDS,
    }
    for name, fields in schemas.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, 1):
            message.field.add(
                name=field, number=number, type=_KINDS[kind], label=_Field.LABEL_OPTIONAL
            )
    file.message_type.add(name="Rows").field.add(
        name="rows",
        number=1,
        type=_Field.TYPE_MESSAGE,
        type_name=".bench.Row",
        label=_Field.LABEL_REPEATED,
    )
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())
_classes: dict[str, Any] = {
    name: message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"bench.{name}"))
    for name in ("Addends", "Number", "Blob", "Rows", "Row")
}
Addends, Number = _classes["Addends"], _classes["Number"]
Blob, Rows, _Row = _classes["Blob"], _classes["Rows"], _classes["Row"]


def to_rows(rows: list[dict[str, Any]]) -> Any:
    """Return the message of these rows."""
    return Rows(rows=[_Row(**row) for row in rows])
