"""What a caller is told of an exception: always something that can be sent."""

from typing import Any

from rap.errors import CallError, Code, encode_error
from rap.wire.codec import pack, unpack

__all__ = ["failure"]

# Bytes; a Reset is one frame, and every peer takes frames of 16 KiB.
_MAX_MESSAGE = 4096
_MAX_DETAILS = 8192
_MAX_TRACEBACK = 6000  # characters, the last ones


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


def _can_be_sent(details: dict[str, Any]) -> bool:
    try:
        packed = pack(details)
        unpack(packed)
    except ValueError:
        return False
    return len(packed) <= _MAX_DETAILS
