"""What a caller is told of an exception: always something that can be sent."""

from collections.abc import Collection
from typing import Any

from rap.errors import CallError, Code, InvalidArgument, encode_error
from rap.message import Header
from rap.wire.codec import pack, unpack

__all__ = ["failure", "unreadable"]

# Bytes; a Reset is one frame, and every peer takes frames of 16 KiB.
_MAX_MESSAGE = 4096
_MAX_DETAILS = 8192
_MAX_TRACEBACK = 6000  # characters, the last ones
# Reserved header to what it says of a body, and who reads it.
_CHANGED = {
    ":crypto": ("encrypted", "CryptoProcessor"),
    ":deflate": ("compressed", "CompressProcessor"),
}


def failure(exc: BaseException, *, debug: bool) -> tuple[Code, str, dict[str, Any]]:
    """Return code, message and details of the Reset for an exception.

    Args:
        exc: What ended the call; its text and details are the user's, and may be anything.
        debug: Add the traceback.
    """
    kind = type(exc).__name__
    try:
        code, message, details = encode_error(exc, debug=debug)
    except Exception:
        return Code.UNKNOWN, f"{kind}, whose text cannot be made", {"type": kind}
    if debug:
        text = details["traceback"][-_MAX_TRACEBACK:]
        details["traceback"] = text.encode("ascii", "backslashreplace").decode()[-_MAX_TRACEBACK:]
    if not _can_be_sent(details):
        details = {} if isinstance(exc, CallError) else {"type": kind}
        message += " (with details that cannot be sent)"
    encoded = message.encode("utf-8", "backslashreplace")
    return code, encoded[:_MAX_MESSAGE].decode("utf-8", "ignore"), details


def unreadable(method: str, header: Header, reads: Collection[str]) -> InvalidArgument | None:
    """Return the error of a call whose body only a processor could read that is not here.

    Args:
        method: What was called.
        header: What the call says of its body.
        reads: Headers that the processors of this server know.
    """
    for name, (how, processor) in _CHANGED.items():
        if name in header and name not in reads:
            return InvalidArgument(
                f"{method}: the call is {how}, and this server has no {processor}: "
                f"load one into the server, or none into the client"
            )
    return None


def _can_be_sent(details: dict[str, Any]) -> bool:
    try:
        packed = pack(details)
        unpack(packed)
    except ValueError:
        return False
    return len(packed) <= _MAX_DETAILS
