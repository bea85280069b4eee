"""An endpoint as a plain mapping, the form in which registries and caches store it.

The mapping is ``{addr, weight, zone, version, methods_hash, incarnation, state, meta}``. All
values are strings except the weight and ``meta``. The version of the program and the hash of its
methods are entries of `Endpoint.metadata`; here they are separate fields, for tools that read the
registry.
"""

import logging
from collections.abc import Mapping

from rap.address import Address
from rap.foreign import one_line
from rap.registry.base import Endpoint, State, check_weight

__all__ = ["BadRecords", "check_id", "from_record", "text_of", "to_record"]

logger = logging.getLogger("rap.registry")

_MAX_ID = 1024  # characters
_MAX_WARNED = 256  # bad records that are logged
_OWN_FIELDS = ("version", "methods_hash")


def to_record(endpoint: Endpoint) -> dict[str, object]:
    """Return the mapping of an endpoint; equal endpoints have equal mappings, in the same order."""
    meta = dict(sorted(endpoint.metadata.items()))
    own = {name: meta.pop(name, "") for name in _OWN_FIELDS}
    return {
        "addr": str(endpoint.address),
        "weight": endpoint.weight,
        "zone": endpoint.zone,
        **own,
        "incarnation": endpoint.incarnation,
        "state": endpoint.state.value,
        "meta": meta,
    }


def from_record(endpoint_id: str, record: object) -> Endpoint:
    """Return the endpoint of a mapping; unknown fields are ignored.

    Raises:
        ValueError: A field is missing or has the wrong type; the message names it.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"it must be a mapping, got {one_line(repr(record))}")
    check_id(endpoint_id)
    meta = record.get("meta")
    if not isinstance(meta, Mapping):
        raise ValueError(f"field meta must be a mapping, got {one_line(repr(meta))}")
    metadata = {str(key): str(value) for key, value in meta.items()}
    metadata |= {name: str(record[name]) for name in _OWN_FIELDS if record.get(name)}
    return Endpoint(
        id=endpoint_id,
        address=Address.parse(_text(record, "addr"), option="field addr"),
        weight=check_weight(record.get("weight"), option="field weight"),
        state=State(_text(record, "state")),
        incarnation=_text(record, "incarnation"),
        zone=_text(record, "zone"),
        metadata=metadata,
    )


def check_id(endpoint_id: str) -> str:
    """Return the id of an endpoint.

    Raises:
        ValueError: It is too long, or would not be safe to print.
    """
    if not endpoint_id.isprintable() or len(endpoint_id) > _MAX_ID:
        raise ValueError(f"an id has 1 to {_MAX_ID} printable characters")
    return endpoint_id


def text_of(name: bytes) -> str:
    """Return a name in a registry as text.

    Any bytes have one text, from which ``encode(errors="surrogateescape")`` makes them again. The
    text of bytes that are not UTF-8 is not printable, so `check_id` refuses it.
    """
    return name.decode(errors="surrogateescape")


class BadRecords:
    """The records that were ignored. A writer of the registry cannot fill the log with them."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def is_new(self, key: str) -> bool:
        """Return whether a record would be logged."""
        return key not in self._warned and len(self._warned) < _MAX_WARNED

    def warn(self, key: str, text: str, error: Exception) -> None:
        """Log a record once, unless too many were logged.

        Args:
            key: Names the record.
            text: Format of the log line, with a place for the key and one for the error.
            error: What is wrong.
        """
        if self.is_new(key):
            self._warned.add(key)
            logger.warning(text, one_line(key), one_line(error))


def _text(record: Mapping[object, object], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise ValueError(f"field {field} must be text, got {one_line(repr(value))}")
    return value
