"""All errors of rap, their status codes, and their form on the wire.

::

    RapError
    ├── CallError               a call failed; .code .message .details .remote
    │   ├── InvalidArgument · NotFound · PermissionDenied · Unauthenticated
    │   ├── ResourceExhausted · Internal
    │   ├── Unavailable         no server; VersionMismatch: none speaks the protocol of this client
    │   ├── Unimplemented       the server does not have the function
    │   ├── DeadlineExceeded    also a TimeoutError
    │   ├── Cancelled           the server cancelled the call
    │   └── HandlerError        the user's function raised; .details["type"] names the exception
    │       └── ValueError, …   also that builtin type, or a type that the client has loaded
    ├── ProtocolError           LocalProtocolError (our bug) · RemoteProtocolError (theirs)
    ├── ConnectionClosed · ChannelClosed · RegistryError
    └── RegistrationError       a function cannot be registered; at start-up, never in a call

Every error can be copied and pickled, so it passes through queues and process pools.
"""

import builtins
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import Enum, IntEnum
from functools import cache, cached_property, lru_cache
from types import FunctionType
from typing import Any, Protocol
from weakref import WeakValueDictionary

from rap.foreign import indented, one_line, printable
from rap.tracebacks import compact

__all__ = [
    "RAISED",
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
    "PeerSilent",
    "PermissionDenied",
    "ProtocolError",
    "RapError",
    "RegistrationError",
    "RegistryError",
    "RemoteProtocolError",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Verdict",
    "VersionMismatch",
    "decode_error",
    "encode_error",
    "verdict_of",
]

MAX_MESSAGE_CHARS = 4096
# Key of details: `type` is the name of a class derived from `CallError`. The value has its fields,
# and the entry `type` that the details had themselves.
RAISED = ":error"
_MAX_LEAVES = 10  # exceptions of a group whose text is sent
_MAX_LEAF_CHARS = 300  # of each
_MAX_COUNTED = 4_096  # exceptions and groups that are counted
_MAX_BASES = 8  # builtin base classes of one exception


class Code(IntEnum):
    """The status codes of gRPC, with their numbers.

    A code prints as its name, and is equal to its number: `f"{code}"` is ``ABORTED``, and so is
    `f"{code:>10}"` with spaces before it; `f"{code:d}"` and JSON have ``10``.
    """

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

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(int(self) if spec[-1:] in _NUMERIC else self.name, spec)


_NUMERIC = frozenset("bcdeEfFgGnoxX%")  # last characters of format specs that are for numbers
# Those of gRPC's HTTP mapping (google.rpc.Code). 499 is nginx's status for a client that has closed
# the request.
_HTTP_STATUS: Mapping[Code, int] = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


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

    `str` is safe to print: characters of the message that could control a terminal are escaped.
    Line breaks stay. `message` is what the server sent, at most 4,096 characters of it.

    Args:
        message: One sentence for people.
        code: The status code; each subclass has its own default.
        details: Values for programs: text keys to msgpack values.
        remote: Whether the peer sent the error; otherwise this side detected it.
        unserved: Whether the handler certainly never started, so that a retry is safe.

    Attributes:
        type_name: Name of the class derived from `CallError` that a server raised, if the error
            did not arrive as this class: see `Client.load_exception`. Otherwise empty.
    """

    code: Code = Code.UNKNOWN
    # For classes whose constructors do not call this one, such as dataclasses.
    message: str = ""
    remote: bool = False
    unserved: bool = False
    type_name: str = ""

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
        self.details = dict(details) if details else {}
        self.remote = remote
        self.unserved = unserved

    @cached_property
    def details(self) -> dict[str, Any]:
        """Values for programs."""
        return {}

    def __str__(self) -> str:
        return printable(self.message or Exception.__str__(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, code={self.code.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which is wrong for every subclass that takes
        # other arguments, and finds no class by the name of a builtin twin.
        return _rebuild, (self.__class__, self.args), self.__dict__.copy()

    @property
    def http_status(self) -> int:
        """The HTTP status with which a web application passes the error on.

        It is that of the code. A function that no server has is 404; a handler that raises
        `Code.UNIMPLEMENTED` itself is 501.
        """
        if self.code is Code.UNIMPLEMENTED and self.unserved:
            return 404
        return _HTTP_STATUS.get(self.code, 500)

    def restate(self, message: str) -> None:
        """Replace the message; type, code and details stay."""
        self.message = message
        self.args = (message,)


class InvalidArgument(CallError):
    """The arguments do not fit the function."""

    code = Code.INVALID_ARGUMENT


class NotFound(CallError):
    """What the handler looked for does not exist.

    Servers before 1.0 also answer with it where they do not have the function.
    """

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


class VersionMismatch(Unavailable):
    """Client and server have no version of the wire protocol in common.

    A call fails with it if this is so for every server. The message has the versions of both sides,
    and says which side to upgrade.
    """


class Unimplemented(CallError):
    """The server does not have the function, or hides it from this peer.

    `details` may have ``suggestion``, a similar name, and ``groups``, those in which a function of
    this name exists.
    """

    code = Code.UNIMPLEMENTED


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
    """The handler raised an exception; `details["type"]` is the name of its class.

    `str` begins with that name unless the error is of that type, as a `ValueError` is.
    """

    code = Code.UNKNOWN
    _kinds: tuple[type[Exception], ...] = ()  # what a class made by `_twin` is besides

    def __str__(self) -> str:
        name = self.details.get("type")
        message = super().__str__()
        if not isinstance(name, str) or name == type(self).__name__:
            return message
        return f"{one_line(name)}: {message}" if message else one_line(name)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._kinds:
            return super().__reduce__()
        # By name, because pickle's old protocols take a `ConnectionError` for an `OSError`.
        kinds = tuple(k.__name__ if _PORTABLE.get(k.__name__) is k else k for k in self._kinds)
        return _rebuild_twin, (kinds, self.args), self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        super().__setstate__(state)
        _restore_fields(self, self.details)


class ProtocolError(RapError):
    """The wire protocol was violated."""


class LocalProtocolError(ProtocolError):
    """This side violated the protocol: a bug of rap or of code that uses its internals."""


class RemoteProtocolError(ProtocolError):
    """The peer violated the protocol."""


class ConnectionClosed(RapError):
    """The connection is closed."""


class PeerSilent(ConnectionClosed):
    """The peer answered no ping, so the connection was closed."""


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
        Unimplemented,
        DeadlineExceeded,
        Cancelled,
        Internal,
    )
}

# They would end the caller's iteration, take several arguments, or say nothing.
_NOT_PORTABLE = (StopIteration, StopAsyncIteration, ExceptionGroup)
_NO_TYPE = (Exception, UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)


def _is_portable(kind: object) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, Exception)
        and not issubclass(kind, _NOT_PORTABLE)
        and kind not in _NO_TYPE
        and not kind.__name__.startswith("_")
    )


# Builtin exceptions that take one message and mean the same on each machine, by name.
_PORTABLE: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in vars(builtins).values() if _is_portable(kind)
}
# The classes that `_twin` has made; each is one as long as anything refers to it.
_twins: WeakValueDictionary[tuple[type[Exception], ...], type[HandlerError]] = WeakValueDictionary()


def _twin(kinds: tuple[type[Exception], ...]) -> type[HandlerError]:
    """Return the class that is a `HandlerError` and each of `kinds`, named like the first.

    Raises:
        TypeError: No class can be all of them.
    """
    made = _twins.get(kinds)
    if made is None:
        name = kinds[0].__name__
        doc = f"A handler raised `{name}`."
        namespace: dict[str, Any] = {"__doc__": doc, "__module__": __name__, "_kinds": kinds}
        if any(map(_has_constructor, kinds)) and not any(hasattr(k, "__getattr__") for k in kinds):
            namespace["__getattr__"] = _explain_missing
        made = _twins[kinds] = type(name, (HandlerError, *kinds), namespace)
    return made


def _is_own(kind: type[BaseException]) -> bool:
    """Return whether a user has derived an exception class from `CallError`."""
    return issubclass(kind, CallError) and kind.__module__ != __name__


class FieldCodec(Protocol):
    """What the constructor of an error class takes; see `rap.schema.error_fields`."""

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the values that must have arrived."""
        ...

    def arguments(
        self, given: Mapping[str, Any], sent: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments for the constructor; raise if what was sent does not fit."""
        ...


class _OwnType:
    """A class that a user has derived from `CallError`, and how errors of it are made.

    Args:
        kind: The class.
        fields: What its constructor takes; `None`: what that of `CallError` takes.
    """

    def __init__(self, kind: type[CallError], fields: FieldCodec | None) -> None:
        self.kind = kind
        self._fields = fields

    def check(self) -> None:
        """Make one, as far as that is possible without fields; this can raise anything."""
        if self._fields is None or not self._fields.required:
            self.make({}, message="a message", **_NOTHING)
        else:
            self._new("a message", **_NOTHING).restate("a message")

    def make(self, sent: Mapping[str, Any], *, message: str, **given: Any) -> CallError:
        """Return an error; this can raise anything.

        Args:
            sent: What arrived for its fields, and may be anything.
            message: Its message.
            given: Its code and details, and whether it is remote and unserved.
        """
        if self._fields is None:
            return self.kind(message, **given)
        args, kwargs = self._fields.arguments({"message": message, **given}, sent)
        error = self._new(message, **given)
        construct: Any = self.kind.__init__
        construct(error, *args, **kwargs)
        error.restate(message)
        error.code, error.details = given["code"], dict(given["details"])
        error.remote, error.unserved = given["remote"], given["unserved"]
        return error

    def _new(self, message: str, **given: Any) -> CallError:
        error = self.kind.__new__(self.kind, message)
        CallError.__init__(error, message, **given)
        return error


_NOTHING: dict[str, Any] = {
    "code": Code.UNKNOWN,
    "details": {},
    "remote": True,
    "unserved": False,
}


def _check_other_type(kind: type[Exception]) -> None:
    """Check that errors can be of a class that is not derived from `CallError`.

    Raises:
        TypeError: They cannot.
    """
    made = _twin((kind,))
    made("a message", **_NOTHING)
    if _has_constructor(kind):
        from inspect import signature  # on first use

        try:
            signature(kind.__init__).bind(None, "a message")
        except TypeError as exc:
            text = f"{exc}; only classes derived from CallError carry more than a message"
            raise TypeError(f"{text}: class {kind.__name__}(CallError)") from exc


def _has_constructor(kind: type[Exception]) -> bool:
    return isinstance(kind.__init__, FunctionType)


def _explain_missing(error: Exception, name: str) -> Any:
    """Say why an attribute is not there that a constructor would set, which was not called."""
    text = f"{type(error).__name__!r} object has no attribute {name!r}"
    if not name.startswith("_"):
        text += (
            ": an error that arrives has values besides its message only if its class is derived"
        )
        text += " from CallError"
    raise AttributeError(text, name=name, obj=error)


@cache
def _builtin_type(name: str) -> type[HandlerError]:
    """Return the class for a builtin type; it is made when it is first needed, and kept."""
    return _twin((_PORTABLE[name],))


@lru_cache(maxsize=256)  # a server chooses the combination
def _type_of_bases(names: tuple[str, ...]) -> type[HandlerError]:
    """Return the class that is all builtin types of these names, or as many as possible."""
    kinds: tuple[type[Exception], ...] = ()
    for name in names:
        kind = _PORTABLE.get(name)
        if kind is None or any(issubclass(each, kind) for each in kinds):
            continue
        try:
            _twin((*kinds, kind))
        except TypeError:  # their objects differ in layout
            continue
        kinds = (*kinds, kind)
    return _twin(kinds) if kinds else HandlerError


def _bases_of(kind: type[BaseException]) -> list[str]:
    """Return the names of the builtin types that an exception class is derived from."""
    names = [each.__name__ for each in kind.__mro__ if _PORTABLE.get(each.__name__) is each]
    return names[:_MAX_BASES]


def _rebuild(kind: type[CallError], args: tuple[Any, ...]) -> CallError:
    """Return an error without a call of its constructor; its attributes are set afterwards."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


def _rebuild_twin(kinds: tuple[str | type[Exception], ...], args: tuple[Any, ...]) -> CallError:
    """Do the same for a class made by `_twin`; builtin types come by name."""
    error = _twin(tuple(_PORTABLE[k] if isinstance(k, str) else k for k in kinds))(*args[:1])
    error.args = args
    return error


class ExceptionTypes:
    """The exception types that an error of a server may become on this client.

    A name that a server sends is looked up here; it is never imported or called.

    Args:
        fields_of: Returns what the constructor of a class that is derived from `CallError` takes;
            `None`: what that of `CallError` takes.
    """

    def __init__(
        self, fields_of: Callable[[type[CallError]], FieldCodec | None] = lambda _: None
    ) -> None:
        self._fields_of = fields_of
        self._own: dict[str, _OwnType] = {}  # those of users
        self._others: dict[str, type[HandlerError]] = {}  # likewise, not derived from `CallError`

    def load(self, kinds: Iterable[type[Exception]]) -> None:
        """Add exception types.

        Raises:
            TypeError: An entry is not an exception class, or cannot be the error of a call.
        """
        if not isinstance(kinds, Iterable):
            raise TypeError(f"load_exception takes a list of exception classes, got {kinds!r}")
        found = self.__class__(self._fields_of)
        for kind in kinds:
            found._add(kind)
        self.include(found)

    def _add(self, kind: Any) -> None:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"load_exception takes exception classes, got {kind!r}")
        if issubclass(kind, StopIteration | StopAsyncIteration):
            raise TypeError(
                f"load_exception: {kind!r} would end the caller's iteration, not fail it"
            )
        of = "what arrives" if _is_own(kind) else "one message"
        try:
            if issubclass(kind, CallError) and _is_own(kind):
                own = _OwnType(kind, self._fields_of(kind))
                own.check()
                self._own[kind.__name__] = own
            else:
                _check_other_type(kind)
                self._others[kind.__name__] = _twin((kind,))
        except Exception as exc:  # making a user's type can raise anything
            raise TypeError(f"load_exception: {kind!r} cannot be made of {of}: {exc}") from exc

    def include(self, other: "ExceptionTypes") -> None:
        """Let errors arrive as all the types that were loaded into `other`."""
        for name in other._own:
            self._others.pop(name, None)
        for name in other._others:
            self._own.pop(name, None)
        self._own |= other._own
        self._others |= other._others

    def own(self, name: object) -> _OwnType | None:
        """Return the class of this name that is derived from `CallError`, if it was loaded."""
        return self._own.get(name) if isinstance(name, str) else None

    def get(self, name: object, bases: object = ()) -> type[CallError]:
        """Return the class for an exception; `HandlerError` if nothing of it is known.

        Args:
            name: Name of its class.
            bases: Names of builtin classes that it is derived from, the most specific first.
        """
        if isinstance(name, str):
            if name in self._others:
                return self._others[name]
            if name in _PORTABLE:
                return _builtin_type(name)
        if not bases or not isinstance(bases, list | tuple):
            return HandlerError
        return _type_of_bases(tuple(each for each in bases[:_MAX_BASES] if isinstance(each, str)))


def encode_error(
    exc: BaseException, fields: Mapping[str, Any] | None = None, *, debug: bool = False
) -> tuple[Code, str, dict[str, Any]]:
    """Return the code, message and details that represent an exception on the wire.

    Args:
        exc: The exception that ended the call.
        fields: Values of an error whose class a user has derived from `CallError`.
        debug: Whether to add the traceback, which shows source code to the caller.
    """
    details: dict[str, Any] = {}
    if isinstance(exc, CallError):
        code = exc.code if exc.code in _HTTP_STATUS else Code.UNKNOWN  # a class can have any
        message = exc.message or str(exc)
        details.update(exc.details)
        name = type(exc).__name__ if _is_own(type(exc)) else exc.type_name
        if name:
            # Clients of earlier releases find the name where that of other exceptions is.
            apart = {"type": details["type"]} if "type" in details else {}
            details[RAISED] = {"fields": dict(fields), **apart} if fields else apart
            details["type"] = name
        elif "type" in details and not exc.remote and not isinstance(exc, HandlerError):
            details[RAISED] = None
    else:
        code = Code.UNKNOWN
        message = _text_of(exc)
        details["type"] = type(exc).__name__
        if type(exc).__name__ not in _PORTABLE and (bases := _bases_of(type(exc))):
            details["bases"] = bases
        for each in _FIELDS:
            if isinstance(exc, each.kind):
                details |= each.read(exc)
    if debug:
        details["traceback"] = "".join(traceback.format_exception(compact(exc)))
    return code, message[:MAX_MESSAGE_CHARS], details


def _text_of(exc: BaseException) -> str:
    """Return the message of an exception; that of a group names the exceptions in it."""
    if not isinstance(exc, BaseExceptionGroup):
        return str(exc.args[0]) if len(exc.args) == 1 else str(exc)
    leaves: list[BaseException] = []
    left: list[BaseException] = [exc]
    steps = 0
    while left and steps < _MAX_COUNTED:
        steps += 1
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left.extend(reversed(each.exceptions[:_MAX_COUNTED]))
        else:
            leaves.append(each)
    texts = [_leaf_text(each) for each in leaves[:_MAX_LEAVES]]
    if left or len(leaves) > _MAX_LEAVES:
        least = "at least " if left else ""
        texts.append(f"and {least}{max(1, len(leaves) - _MAX_LEAVES)} more")
    return f"{exc}: " + "; ".join(texts)


def _leaf_text(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:  # of a user's `__str__`; the text says so
        text = "its text cannot be made"
    text = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    return text if len(text) <= _MAX_LEAF_CHARS else text[: _MAX_LEAF_CHARS - 1] + "…"


class _Fields:
    """Attributes of a builtin exception type that travel in the details of an error.

    Args:
        kind: The exception type.
        types: The attributes, with the type that each may have.
    """

    def __init__(self, kind: type[Exception], **types: type) -> None:
        self.kind = kind
        self._types = types

    def read(self, exc: BaseException) -> dict[str, Any]:
        """Return the attributes that are set."""
        found: dict[str, Any] = {}
        for name, kind in self._types.items():
            value: Any = getattr(exc, name, None)
            if name == "filename" and isinstance(value, bytes | os.PathLike):
                value = os.fsdecode(value)
            if type(value) is kind:
                if isinstance(value, str):  # such as a file name with undecodable bytes
                    value = value[:_MAX_FIELD_CHARS].encode("utf-8", "backslashreplace").decode()
                if not isinstance(value, int) or -(2**31) <= value < 2**31:
                    found[name] = value
        return found

    def write(self, error: Exception, details: Mapping[str, Any]) -> None:
        """Set the attributes that the details have."""
        for name, kind in self._types.items():
            value = details.get(name)
            if type(value) is kind:
                with suppress(AttributeError):  # a user's class may have a property of this name
                    setattr(error, name, value)


_MAX_FIELD_CHARS = 1024
_FIELDS = (
    _Fields(OSError, errno=int, strerror=str, filename=str),
    _Fields(ImportError, name=str, path=str),
)


def _restore_fields(error: Exception, details: Mapping[str, Any]) -> None:
    """Set what a builtin type keeps outside of `__dict__`; `details` come from the peer."""
    for fields in _FIELDS:
        if isinstance(error, fields.kind):
            fields.write(error, details)
    if isinstance(error, SyntaxError):
        error.msg = str(error.args[0]) if error.args else ""


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
    message = message[:MAX_MESSAGE_CHARS]
    values: dict[str, Any] = {"code": known, "remote": remote, "unserved": unserved}
    if "type" in details or RAISED in details:
        error = _of_type(message, details, types, values)
    else:
        error = _BY_CODE.get(known, CallError)(message, details=details, **values)
    if isinstance(lines := details.get("traceback"), str):
        error.add_note(indented(f"On the server:\n{lines.rstrip()[-_MAX_TRACEBACK:]}"))
    return error


def _of_type(
    message: str, details: Mapping[str, Any], types: ExceptionTypes, values: dict[str, Any]
) -> CallError:
    """Return the error of a handler that raised an exception, or has a detail `type`."""
    why = ""
    sent = _Sent(details)
    if (own := types.own(sent.name)) is not None:
        try:
            return own.make(sent.fields, message=message, details=sent.own_details, **values)
        except Exception as exc:  # of a user's constructor, or of values that the peer chose
            why = f"it did not arrive as {one_line(sent.name)}: {one_line(exc)}"
    code: Code = values["code"]
    if sent.is_other and code is Code.UNKNOWN:
        twin = types.get(details["type"], details.get("bases"))
        error: CallError = twin(message, details=details, remote=values["remote"])
        if twin is not HandlerError:
            _restore_fields(error, details)
    else:
        error = _BY_CODE.get(code, CallError)(message, details=sent.details, **values)
        if sent.name and not sent.is_other:
            error.type_name = sent.name
    if why:
        error.add_note(why)
    return error


class _Sent:
    """The details of an error as they arrived, taken apart.

    Attributes:
        name: Name of the class that a handler raised, or an empty text.
        is_other: Whether the class may be another one than those derived from `CallError`.
        details: What the handler gave the error as details, and its fields besides.
        own_details: Without the fields.
        fields: Values for the constructor.
    """

    def __init__(self, details: Mapping[str, Any]) -> None:
        self.details = dict(details)
        name = self.details.get("type")
        self.name = name if isinstance(name, str) else ""
        self.is_other = RAISED not in self.details
        raised = self.details.pop(RAISED, None)
        if self.is_other:  # also what servers of earlier releases send
            self.own_details = {k: v for k, v in self.details.items() if k != "type"}
            self.fields: Mapping[str, Any] = self.details
            return
        if not isinstance(raised, dict):  # `type` is an entry of the handler
            self.name, raised = "", {}
        else:
            self.details.pop("type", None)
            if "type" in raised:
                self.details["type"] = raised["type"]
        fields = raised.get("fields")
        self.own_details = self.details
        self.details = {**fields, **self.details} if isinstance(fields, dict) else self.details
        self.fields = {**self.details, **fields} if isinstance(fields, dict) else self.details


_MAX_TRACEBACK = 6000  # characters of the end, as a server sends them
_FAILURES = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL})


def verdict_of(error: BaseException | None) -> Verdict:
    """Return the effect of the end of a call on the health of its node."""
    if error is None:
        return Verdict.SUCCESS
    if not isinstance(error, CallError):
        return Verdict.IGNORED
    if error.code in _FAILURES:
        # A server that answers no ping is out of the ready set until it answers a Hello.
        is_silent = not error.remote and error.details.get("limit") == "ping_timeout"
        return Verdict.IGNORED if is_silent else Verdict.FAILURE
    if error.code is Code.RESOURCE_EXHAUSTED:
        return Verdict.FAILURE if error.unserved else Verdict.IGNORED
    return Verdict.IGNORED if error.code is Code.CANCELLED else Verdict.ANSWERED
