"""How a call ended, as metrics and traces name it."""

import asyncio

from rap.errors import CallError, Code
from rap.message import current

__all__ = ["outcome"]


def outcome(error: BaseException | None) -> Code:
    """Return the code of what ended the scope of a call; ask inside of the scope.

    A handler whose call was ended from outside sees a cancellation. Its stream knows why: the
    deadline passed, the caller gave up, or the connection was lost.
    """
    if error is None or isinstance(error, GeneratorExit):
        return Code.OK
    if isinstance(error, asyncio.CancelledError):
        error = getattr(current.get(), "error", None) or error
    if isinstance(error, CallError):
        return error.code
    return Code.CANCELLED if isinstance(error, asyncio.CancelledError) else Code.UNKNOWN
