"""What HTTP clients learn of an error: enough to mend their request, and nothing of the inside."""

import logging
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from rap.errors import CallError, Code, HandlerError
from rap.foreign import one_line

__all__ = ["BadRequest", "CallOfError", "ErrorReplies", "status_of", "unknown_function"]

_log = logging.getLogger("rap.gateway")

# Their texts are written for those who run the servers: exceptions, addresses, names of services.
_FAULTS = (Code.UNKNOWN, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS)
_INNER = (*_FAULTS, Code.DEADLINE_EXCEEDED)
# What is said of a call of the wrong stream type, and what HTTP clients do instead.
_REMEDIES = (
    (" is a channel function;", "open a WebSocket on PREFIX/channel"),
    (": a generator answers:", "POST to PREFIX/call/GROUP/NAME with Accept: text/event-stream"),
    (" is not a generator;", "leave out Accept: text/event-stream"),
)
_MOST = 1000  # characters of an error in the log


class BadRequest(Exception):
    """A request that the gateway refuses without calling a function.

    Args:
        status: HTTP status.
        message: The reason, as one sentence.
        headers: Headers of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class CallOfError(Protocol):
    """The call that has failed."""

    @property
    def method(self) -> str:
        """Name of its function."""
        ...

    @property
    def trace_id(self) -> str:
        """Trace id, as 32 hex digits; empty without a trace."""
        ...


class ErrorReplies(NamedTuple):
    """Makes the response objects of errors.

    Args:
        debug: Whether clients get the text of every error.
    """

    debug: bool

    def reply(
        self, error: CallError | BadRequest, call: CallOfError | None = None
    ) -> dict[str, Any]:
        """Return the response object of an error; its ``code`` is the HTTP status.

        An error whose text is not for clients is logged with a trace id, and the object has the
        name of its code and this id. Without a trace, the id is a random one.

        Args:
            error: The error.
            call: The call that has failed; `None` if there is none, or it is unknown.
        """
        reply: dict[str, Any] = {"code": status_of(error)}
        if isinstance(error, BadRequest):
            return reply | {"msg": str(error)}
        text = _debug_text(error) if self.debug else _text_for_clients(error, call)
        if text is not None:
            return reply | {"msg": text}
        trace_id = (call.trace_id if call is not None else "") or secrets.token_hex(16)
        what = "a call" if call is None else one_line(call.method)
        level = logging.WARNING if error.code in _FAULTS else logging.INFO
        why = one_line(_debug_text(error), _MOST)
        _log.log(level, "%s failed: %s: %s (trace %s)", what, error.code.name, why, trace_id)
        return reply | {"msg": error.code.name, "trace_id": trace_id}


def status_of(error: CallError | BadRequest) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, BadRequest):
        return error.status
    return error.http_status


def unknown_function(method: str) -> str:
    """Return the text of a call of a function that is hidden, or that no server has.

    Both have the same, which does not say which others there are.
    """
    return f"no function {method!r} on this server"


def _text_for_clients(error: CallError, call: CallOfError | None) -> str | None:
    """Return the text of an error as clients may see it; `None` if they may not."""
    if error.code in _INNER:
        return None
    if error.code is Code.UNIMPLEMENTED and error.unserved and call is not None:
        return unknown_function(call.method)
    if error.code is Code.INVALID_ARGUMENT:
        return _without_signature(error.message) or _in_terms_of_http(str(error))
    # What no handler has said is about the gateway and its servers.
    return str(error) if error.remote and not error.unserved else None


def _in_terms_of_http(text: str) -> str:
    """Return the text of a call of the wrong type, with what HTTP clients do instead."""
    for what, remedy in _REMEDIES:
        head, found, _ = text.partition(what)
        if found:
            return f"{head}{what} {remedy}"
    return text


def _without_signature(message: str) -> str | None:
    """Return the text of a wrong argument as clients may see it; `None` for another text.

    The text is `name(): what is wrong; expected name(signature), got …`. Whoever calls can choose
    long parts of it, so this takes linear time.
    """
    name, _, rest = message.partition("(): ")
    what, expected, _ = rest.partition(f"; expected {name}(")
    return f"{name}(): {what}" if name and expected else None


def _debug_text(error: CallError) -> str:
    """Return the text of an error; that of a handler's exception begins with its type."""
    name = error.details.get("type") if isinstance(error, HandlerError) else None
    if not isinstance(error, HandlerError) or not isinstance(name, str):
        return str(error)
    return f"{name}: {error.message}" if error.message else name
