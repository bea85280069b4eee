"""Methods: what is known of a call before it is made, worked out once per stub or name."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rap.call import PRIORITY, UNTRACED, UNTRACED_HEADER, Header, StreamType, method_path
from rap.client.config import ClientConfig
from rap.client.rescue import RescuePolicy
from rap.client.retry import DEFAULT_RULES, CallRules, HedgePolicy
from rap.clock import NEVER, remaining_ms
from rap.errors import InvalidArgument, RegistrationError
from rap.schema.function import Function, decode_any, raw_encoder
from rap.wire.codec import pack

if TYPE_CHECKING:
    from rap.balance import Tally

__all__ = ["Method", "MethodCache", "merge_arguments"]

_JUST_BEGUN = 0.005  # seconds of a timeout that may have passed
_OFTEN_THE_SAME = {"session_id", UNTRACED, PRIORITY}
_MAX_KEPT = 4096  # methods of functions and names that are called without a stub
_MAX_NAME = 256  # characters of a name whose method is kept


class Method:
    """A function of a server, and how to call it.

    Args:
        name: Name of the function on the server.
        group: Group of the function on the server; see `canonical_group`.
        function: The declaration; `None` if only the name is known.
        timeout: Deadline of a call in seconds; `None`: no deadline.
        idempotent: Whether calling twice has the effect of calling once, so that a call whose
            connection was lost may be retried.
        check: Whether arguments are checked against the declaration before they are sent.
        hedge: When a unary call is hedged; `None`: never.
        priority: Priority of its calls; `None`: the server decides.
        rules: How its calls are retried, hedged and judged.
        stream_type: Type of the call, if only the name is known.

    Attributes:
        header: Header of a call without options.
        untraced_header: The same of a call that is in no trace.
        rescue: When a call that waits in vain is made once more; `None`: never.
        path: Name on the wire, ``/group/name``.
        encode: Encodes positional and keyword arguments.
        decode: Decodes the result.
        meta: Meta of the Open of a call with the default timeout and no header.
        untraced_meta: The same with a header that says that the call is in no trace.
        tally: Counts the calls that do not fail, by server, while others fail; `None`: none do.
    """

    def __init__(
        self,
        name: str,
        group: str | None,
        function: Function | None,
        *,
        timeout: float | None,
        idempotent: bool = False,
        check: bool = True,
        hedge: HedgePolicy | None = None,
        priority: str | None = None,
        rules: CallRules = DEFAULT_RULES,
        stream_type: StreamType = StreamType.UNARY,
    ) -> None:
        _check_group(group)
        self.name = name
        self.path = method_path(group, name)
        self.function = function
        self.stream_type = stream_type if function is None else function.stream_type
        self.timeout = timeout
        self.tally: Tally | None = None
        self.idempotent = idempotent
        self.hedge = hedge
        self.rules = rules
        self.priority = priority
        self.header: Header = {}
        self.untraced_header = UNTRACED_HEADER
        if priority is not None:
            self.header = {PRIORITY: priority}
            self.untraced_header = {PRIORITY: priority, UNTRACED: True}
        self.rescue = RescuePolicy(timeout) if idempotent else None
        self.decode: Callable[[Any], Any] = decode_any
        if function is None:
            self.encode: Callable[[Any, Any], bytes] = raw_encoder(self.path)
        else:
            self.encode = function.encode_args if check else function.encode_args_unchecked
            self.decode = function.decode_result
        limit = NEVER if timeout is None else float(timeout)
        self._timeout_ms = remaining_ms(limit, 0.0)
        try:
            self.meta = pack([self.path, self._timeout_ms, *_unless_empty(self.header)])
        except ValueError as exc:
            raise InvalidArgument(f"{self.path!r} cannot be sent: {exc}") from exc
        self.untraced_meta = pack([self.path, self._timeout_ms, self.untraced_header])
        # The same with the header of the session, or of the untraced call, that was made last.
        self._header: Mapping[str, Any] = self.header
        self._header_meta = self.meta

    def count_answers(self, tally: "Tally | None") -> None:
        """Count calls that do not fail from now on, to compare servers."""
        self.tally = tally

    def count_answer(self, server: str, now: float) -> None:
        """Count a call that did not fail, if such calls are counted.

        Args:
            server: Id of the server.
            now: Seconds on the monotonic clock.
        """
        if self.tally is not None and not self.tally.succeeded(server, now):
            self.tally = None

    def open_meta(self, deadline: float, now: float, header: Mapping[str, Any] | None) -> bytes:
        """Return the meta of an Open.

        Args:
            deadline: Of the call, in seconds on the monotonic clock.
            now: Seconds on the same clock.
            header: Header of the call.

        Raises:
            InvalidArgument: The header cannot be sent as msgpack.
        """
        # The whole timeout is sent even if a few milliseconds of it have passed. So the metas of
        # many calls are equal byte by byte, and the server need not read them again.
        if self.timeout is None:
            fresh = deadline == NEVER
        else:
            fresh = 0.0 <= now + self.timeout - deadline < _JUST_BEGUN
        if fresh and not (header or self.header):
            return self.meta
        if fresh and header == self._header:
            return self._header_meta
        timeout_ms = self._timeout_ms if fresh else remaining_ms(deadline, now)
        content: list[Any] = [self.path, timeout_ms]
        if header:
            content.append(dict(header))
        try:
            meta = pack(content)
        except ValueError as exc:
            raise InvalidArgument(f"{self.path}: the header {exc}") from exc
        if fresh and header and header.keys() <= _OFTEN_THE_SAME:
            self._header, self._header_meta = dict(header), meta
        return meta


class MethodCache:
    """The methods of one client; it keeps those of functions and names called without a stub.

    Args:
        config: Options of the client, which are those of functions that have none of their own.

    Attributes:
        declared: The functions that the client declares, by path.
    """

    def __init__(self, config: ClientConfig) -> None:
        self._timeout = config.timeout
        self._priority = config.priority
        self._rules = config.rules
        self._kept: dict[Any, Method] = {}
        self.declared: dict[str, Method] = {}

    def make(
        self,
        name: str,
        group: str | None,
        function: Function | None,
        timeout: float | None = None,
        idempotent: bool = False,
        check: bool = True,
        hedge: bool | float | None = None,
        priority: str | None = None,
        *,
        stream_type: StreamType = StreamType.UNARY,
        **own: Any,
    ) -> Method:
        """Return a new method; see `Method` and, for `hedge`, `Client.register`.

        The options in `own` are those fields of `CallRules` that may differ from the client's.

        Raises:
            RegistrationError: `hedge` is set and the function is not unary.
        """
        if function is not None:
            stream_type = function.stream_type
        if hedge and stream_type is not StreamType.UNARY:
            text = f"hedge={hedge!r} is for unary functions, {name} is a {stream_type.value}"
            raise RegistrationError(text)
        rules = self._rules.override(own) if own else self._rules
        limit = self._timeout if timeout is None and stream_type is StreamType.UNARY else timeout
        method = Method(
            name,
            group,
            function,
            timeout=limit,
            idempotent=idempotent,
            check=check,
            hedge=_hedge_policy(hedge, rules),
            priority=self._priority if priority is None else priority,
            rules=rules,
            stream_type=stream_type,
        )
        if function is not None and len(self.declared) < _MAX_KEPT:
            self.declared[method.path] = method
        return method

    def for_name(
        self, name: str, group: str | None, stream_type: StreamType = StreamType.UNARY
    ) -> Method:
        """Return the method for a bare name, and keep it.

        Raises:
            TypeError: It is not a name, or `group` is not a string.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a function must be a string, got {name!r}")
        key = (name, group, stream_type)
        try:
            method = self._kept.get(key)
        except TypeError:  # it cannot be a key
            _check_group(group)
            raise
        if method is None:
            method = self.make(name, group, None, stream_type=stream_type)
            self.keep_name(method, group)
        return method

    def find_name(self, name: str, group: str, stream_type: StreamType) -> Method:
        """Return the method that is kept for a bare name, or a new one, which is not kept.

        It is for names that others choose, as for a gateway. Call `keep_name` when a server is
        known to have the function.
        """
        kept = self._kept.get((name, group, stream_type))
        return kept or self.make(name, group, None, stream_type=stream_type)

    def keep_name(self, method: Method, group: str | None) -> None:
        """Keep a method that `find_name` has returned for a bare name and `group`."""
        if len(method.path) <= _MAX_NAME:
            self._keep((method.name, group, method.stream_type), method)

    def for_function(self, func: Callable[..., Any], group: str | None) -> Method:
        """Return the method of a declared function or of a stub.

        Raises:
            RegistrationError: Type hints are missing, or values of a type cannot be sent.
            TypeError: It is a stub of `with_options`, whose options would be lost.
        """
        declared: Method | None = getattr(func, "__rap_method__", None)
        if declared is not None and group is None:
            return declared
        key = (func, group)
        try:
            method = self._kept.get(key)
        except TypeError:  # it cannot be a key
            _check_group(group)
            raise
        if method is None:
            if getattr(func, "__rap_given__", None) is not None:
                raise TypeError(
                    "call, iterator_call and channel take the options of a call as keywords,"
                    " as in client.call(add, 1, 2, timeout=3); with_options is for stubs that you"
                    " call yourself"
                )
            function = None if declared is None else declared.function
            function = function or Function.of(func)
            method = self.make(declared.name if declared else function.name, group, function)
            self._keep(key, method)
        return method

    def _keep(self, key: Any, method: Method) -> None:
        if key not in self._kept and len(self._kept) >= _MAX_KEPT:
            # The oldest one gives way. If it is in use, it comes back with its next call.
            del self._kept[next(iter(self._kept))]
        self._kept[key] = method


def _hedge_policy(hedge: bool | float | None, rules: CallRules) -> HedgePolicy | None:
    if not hedge or not rules.hedge_share:
        return None
    return HedgePolicy(None if hedge is True else hedge, 1.0 / rules.hedge_share)


def _check_group(group: object) -> None:
    if not isinstance(group, str | None):
        raise TypeError(f"group must be a string, got {group!r}")


def _unless_empty(header: Header) -> list[Header]:
    return [header] if header else []


def merge_arguments(
    args: tuple[Any, ...],
    arg_param: Sequence[Any] | None,
    kwargs: dict[str, Any],
    kwarg_param: dict[str, Any] | None,
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return the arguments of a call, given one by one or as list and dict.

    Raises:
        TypeError: They are given both ways, or not as a list and a dict.
    """
    if arg_param is not None:
        if args:
            raise TypeError("give the arguments as args or as arg_param, not both")
        if not isinstance(arg_param, list | tuple):
            raise TypeError(f"arg_param must be a list or tuple, got {arg_param!r}")
        args = tuple(arg_param)
    if kwarg_param is None:
        return args, kwargs
    if not isinstance(kwarg_param, Mapping):
        raise TypeError(f"kwarg_param must be a dict, got {kwarg_param!r}")
    twice = kwargs.keys() & kwarg_param.keys()
    if twice:
        raise TypeError(f"{sorted(twice)} are given as keywords and in kwarg_param")
    return args, {**kwargs, **kwarg_param}
