"""All errors of rap, their status codes, and their form on the wire.

::

    RapError
    ├── CallError               a call failed; .code .message .details .remote
    │   ├── InvalidArgument · NotFound · PermissionDenied · Unauthenticated
    │   ├── ResourceExhausted · Unavailable · Internal
    │   ├── DeadlineExceeded    also a TimeoutError
    │   ├── Cancelled           the server cancelled the call
    │   └── HandlerError        the user's function raised; .details["type"] names the exception
    ├── ProtocolError           LocalProtocolError (our bug) · RemoteProtocolError (theirs)
    ├── ConnectionClosed · ChannelClosed · RegistryError
    └── RegistrationError       a function cannot be registered; at start-up, never in a call
"""

import traceback
from collections.abc import Iterable, Mapping
from enum import Enum, IntEnum
from typing import Any

__all__ = [
    "CallError",
    "Cancelled",
    "ChannelClosed",
    "Code",
    "ConnectionClosed",
    "DeadlineExceeded",
    "ExceptionTypes",
    "HandlerError",
    "Internal",
    "InvalidArgument",
    "LocalProtocolError",
    "NotFound",
    "PermissionDenied",
    "ProtocolError",
    "RapError",
    "RegistrationError",
    "RegistryError",
    "RemoteProtocolError",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Verdict",
    "decode_error",
    "encode_error",
    "verdict_of",
]

MAX_MESSAGE_CHARS = 4096


class Code(IntEnum):
    """The status codes of gRPC, with their numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Verdict(Enum):
    """The effect of the end of a call on the health of its node."""

    SUCCESS = "success"
    ANSWERED = "answered"  # an error, but the node is alive; never lowers its average latency
    FAILURE = "failure"
    IGNORED = "ignored"  # no effect: the caller cancelled, or reached its own limit


class RapError(Exception):
    """The base class of all errors of rap."""


class CallError(RapError):
    """A call failed.

    Args:
        message: One sentence for people.
        code: The status code; each subclass has its own default.
        details: Values for programs: text keys to msgpack values.
        remote: Whether the peer sent the error; otherwise this side detected it.
        unserved: Whether the handler certainly never started, so that a retry is safe.
    """

    code: Code = Code.UNKNOWN

    def __init__(
        self,
        message: str = "",
        *,
        code: Code | None = None,
        details: Mapping[str, Any] | None = None,
        remote: bool = False,
        unserved: bool = False,
    ) -> None:
        Exception.__init__(self, message)
        if code is not None:
            self.code = code
        self.message = message
        self.details: dict[str, Any] = dict(details) if details else {}
        self.remote = remote
        self.unserved = unserved

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, code={self.code.name})"


class InvalidArgument(CallError):
    """The arguments do not fit the function."""

    code = Code.INVALID_ARGUMENT


class NotFound(CallError):
    """The server does not have the function, or hides it from this peer."""

    code = Code.NOT_FOUND


class PermissionDenied(CallError):
    """The peer is not allowed to make the call."""

    code = Code.PERMISSION_DENIED


class Unauthenticated(CallError):
    """The peer did not authenticate."""

    code = Code.UNAUTHENTICATED


class ResourceExhausted(CallError):
    """A limit was reached; `details` may have ``retry_after``, in seconds."""

    code = Code.RESOURCE_EXHAUSTED


class Unavailable(CallError):
    """No server is reachable, or the connection was lost before the answer."""

    code = Code.UNAVAILABLE


class DeadlineExceeded(CallError, TimeoutError):
    """The deadline of the call passed."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(CallError):
    """The server cancelled the call."""

    code = Code.CANCELLED


class Internal(CallError):
    """An invariant of rap or of the server was violated."""

    code = Code.INTERNAL


class HandlerError(CallError):
    """The handler raised an exception; `details["type"]` is the name of its class."""

    code = Code.UNKNOWN


class ProtocolError(RapError):
    """The wire protocol was violated."""


class LocalProtocolError(ProtocolError):
    """This side violated the protocol: a bug of rap or of code that uses its internals."""


class RemoteProtocolError(ProtocolError):
    """The peer violated the protocol."""


class ConnectionClosed(RapError):
    """The connection is closed."""


class ChannelClosed(RapError):
    """The peer or this side has closed the channel."""


class RegistryError(RapError):
    """The registry is unreachable or refuses the request."""


class RegistrationError(RapError):
    """A function cannot be registered."""


_BY_CODE: dict[Code, type[CallError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        PermissionDenied,
        Unauthenticated,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        Internal,
    )
}

# Builtin exceptions that take one message and mean the same on each machine.
_PORTABLE: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    ConnectionError,
    EOFError,
    FileExistsError,
    FileNotFoundError,
    FloatingPointError,
    IndexError,
    IsADirectoryError,
    KeyError,
    LookupError,
    NameError,
    NotADirectoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    PermissionError,
    RecursionError,
    ReferenceError,
    RuntimeError,
    TimeoutError,
    TypeError,
    UnboundLocalError,
    ValueError,
    ZeroDivisionError,
)


def _handler_error(kind: type[Exception]) -> type[HandlerError]:
    """Return a class that is both a `HandlerError` and `kind`."""
    doc = f"A handler raised `{kind.__name__}`."
    return type(kind.__name__, (HandlerError, kind), {"__doc__": doc, "__module__": __name__})


def _checked_handler_error(kind: object) -> type[HandlerError]:
    """Return the class for an exception type of a user, after a check that it can be created."""
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise TypeError(f"load_exception takes exception classes, got {kind!r}")
    if issubclass(kind, StopIteration | StopAsyncIteration):
        raise TypeError(f"load_exception: {kind!r} would end the caller's iteration, not fail it")
    try:
        made = _handler_error(kind)
        made("a message", details={}, remote=True)
    except Exception as exc:
        raise TypeError(f"load_exception: {kind!r} cannot be made of one message: {exc}") from exc
    return made


_BUILTIN_TYPES = {kind.__name__: _handler_error(kind) for kind in _PORTABLE}


class ExceptionTypes:
    """The exception types that an error of a server may become on this client.

    A name that a server sends is looked up here; it is never imported or called.
    """

    def __init__(self) -> None:
        self._types = dict(_BUILTIN_TYPES)

    def load(self, kinds: Iterable[type[Exception]]) -> None:
        """Add exception types.

        Raises:
            TypeError: An entry is not an exception class, or cannot be the error of a call.
        """
        if not isinstance(kinds, Iterable):
            raise TypeError(f"load_exception takes a list of exception classes, got {kinds!r}")
        classes = [_checked_handler_error(kind) for kind in kinds]
        self._types |= {each.__name__: each for each in classes}

    def include(self, other: "ExceptionTypes") -> None:
        """Let errors arrive as all the types that were loaded into `other`."""
        self._types |= other._types

    def get(self, name: object) -> type[HandlerError]:
        """Return the class for the name of an exception; `HandlerError` for an unknown name."""
        return self._types.get(name, HandlerError) if isinstance(name, str) else HandlerError


def encode_error(exc: BaseException, *, debug: bool = False) -> tuple[Code, str, dict[str, Any]]:
    """Return the code, message and details that represent an exception on the wire.

    Args:
        exc: The exception that ended the call.
        debug: Whether to add the traceback, which shows source code to the caller.
    """
    details: dict[str, Any] = {}
    if isinstance(exc, CallError):
        code, message = exc.code, exc.message
        details.update(exc.details)
    else:
        code = Code.UNKNOWN
        message = str(exc.args[0]) if len(exc.args) == 1 else str(exc)
        details["type"] = type(exc).__name__
    if debug:
        details["traceback"] = "".join(traceback.format_exception(exc))
    return code, message[:MAX_MESSAGE_CHARS], details


def decode_error(
    code: int,
    message: str,
    details: Mapping[str, Any],
    types: ExceptionTypes,
    *,
    unserved: bool = False,
    remote: bool = True,
) -> CallError:
    """Return the error that a Reset stands for.

    Args:
        code: Its code, known or not.
        message: Its message.
        details: Its details; for an exception of a handler, `type` has the name of its class.
        types: The exceptions that such a name may become.
        unserved: No handler began.
        remote: The peer sent the Reset; otherwise this side refused what the peer sent.
    """
    try:
        known = Code(code)
    except ValueError:
        known = Code.UNKNOWN
    if known is Code.UNKNOWN and "type" in details:
        return types.get(details["type"])(message, details=details, remote=remote)
    kind = _BY_CODE.get(known, CallError)
    return kind(message, code=known, details=details, remote=remote, unserved=unserved)


_FAILURES = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL})


def verdict_of(error: BaseException | None) -> Verdict:
    """Return the effect of the end of a call on the health of its node."""
    if error is None:
        return Verdict.SUCCESS
    if not isinstance(error, CallError):
        return Verdict.IGNORED
    if error.code in _FAILURES:
        return Verdict.FAILURE
    if error.code is Code.RESOURCE_EXHAUSTED:
        return Verdict.FAILURE if error.unserved else Verdict.IGNORED
    return Verdict.IGNORED if error.code is Code.CANCELLED else Verdict.ANSWERED
