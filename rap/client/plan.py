"""What is known of a call before it is made, worked out once per stub or method name."""

from collections.abc import Callable, Mapping
from typing import Any

from rap.deadline import remaining_ms
from rap.errors import InvalidArgument
from rap.function import Function, decode_any, encode_raw_args
from rap.message import method_path
from rap.wire.codec import pack

__all__ = ["DEFAULT_GROUP", "Plan"]

DEFAULT_GROUP = "default"


class Plan:
    """How to call one remote function.

    Args:
        name: Its name on the server.
        group: Its group on the server.
        function: What its declaration says; `None` for a bare name.
        timeout: Seconds a call may take; `None` for no limit.
        idempotent: Calling twice has the effect of once, so a lost call may be made again.
        check: Check arguments against the declaration before sending.
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
    ) -> None:
        self.name = name
        self.method = method_path(group or DEFAULT_GROUP, name)
        self.function = function
        self.timeout = timeout
        self.idempotent = idempotent
        self.encode: Callable[[Any, Any], bytes] = encode_raw_args
        self.decode: Callable[[Any], Any] = decode_any
        if function is not None:
            self.encode = function.encode_args if check else function.encode_args_unchecked
            self.decode = function.decode_result
        # The Open of a call with default timeout and no header, packed once.
        timeout_ms = 0 if timeout is None else max(1, int(timeout * 1000))
        self.meta = pack([self.method, timeout_ms])

    def open_meta(self, deadline: float, now: float, header: Mapping[str, Any] | None) -> bytes:
        """Return the meta of an Open.

        Raises:
            InvalidArgument: The header cannot be sent as msgpack.
        """
        content: list[Any] = [self.method, remaining_ms(deadline, now)]
        if header:
            content.append(dict(header))
        try:
            return pack(content)
        except ValueError as exc:
            raise InvalidArgument(f"{self.method}: the header {exc}") from exc
