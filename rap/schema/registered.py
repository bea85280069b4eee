"""The signatures of functions in a registration, so that clients notice functions that differ.

A server registers the hash of each of its public functions. A client compares them with those of
the functions that it declares.
"""

import json
import logging
from collections.abc import Iterable, Mapping

from rap.call import StreamType
from rap.schema.compatibility import signature_hash
from rap.schema.function import Function
from rap.schema.reflection import Registered, describe

__all__ = ["declared_hash", "read_signatures", "signatures_text"]

_log = logging.getLogger("rap.registry")

_MAX_TEXT = 16 * 1024  # characters in a registration, which all clients of the service read


def signatures_text(functions: Iterable[Registered]) -> str:
    """Return the hashes of the public functions of a server.

    It is empty if they are too many, or if one cannot be described: clients then compare nothing.
    """
    try:
        found = {
            f"{each.group}/{each.name}": signature_hash(describe(each))
            for each in functions
            if not each.is_private
        }
    except Exception:  # hints are code of the user
        _log.warning("the signatures of the functions are not registered", exc_info=True)
        return ""
    text = json.dumps(found, separators=(",", ":"))
    return text if len(text) <= _MAX_TEXT else ""


def read_signatures(text: str) -> Mapping[str, str] | None:
    """Return the hashes by ``group/name`` of a registration; `None` if it has none.

    Anyone who can write to the registry chooses the text.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_valid = isinstance(found, dict) and all(isinstance(each, str) for each in found.values())
    return found if is_valid else None


def declared_hash(function: Function, *, as_server: bool = False) -> str | None:
    """Return the hash of a function that a client declares; `None` if it cannot be described.

    Args:
        function: The function.
        as_server: Whether its Channel is taken for that of the server, which reads what the client
            writes.
    """
    try:
        return _hash(function, as_server)
    except Exception:  # hints are code of the user
        _log.debug("the signature of %s is not compared", function.name, exc_info=True)
        return None


def _hash(function: Function, as_server: bool) -> str:
    found = describe(_Declared(function))
    if function.stream_type is StreamType.CHANNEL and not as_server:
        # Its other end receives what this one sends.
        found["request"], found["response"] = found["response"], found["request"]
    return signature_hash(found)


class _Declared:
    """A declared function as a server would register it."""

    group = "default"
    doc = ""
    is_private = False
    idempotent = False

    def __init__(self, function: Function) -> None:
        self.function = function
        self.name = function.name
        self.stream_type = function.stream_type
