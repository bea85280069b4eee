"""The token with which a client says who it is, anew for each connection."""

from collections.abc import Awaitable, Callable
from typing import Any

from rap.errors import Unauthenticated

__all__ = ["Token", "TokenSource", "check_token", "token_of"]

Token = str | bytes
# What users give: a token, or a function that returns one, plain or ``async``.
TokenSource = Token | Callable[[], Any]

_MAX_SIZE = 8192  # bytes


def check_token(source: object) -> None:
    """Check the option ``token``.

    Raises:
        ValueError: It is no token, or one that is empty or too long.
    """
    if source is not None and not callable(source):
        _check(source)


async def token_of(source: TokenSource) -> Token:
    """Return the token for one connection.

    Raises:
        Unauthenticated: The function that makes it failed, or returned none.
    """
    if isinstance(source, str | bytes):
        return source
    try:
        token = source()
        if isinstance(token, Awaitable):
            token = await token
        return _check(token)
    except Exception as exc:  # the user's function
        raise Unauthenticated(f"token() gave no token: {exc!r}", unserved=True) from exc


def _check(token: object) -> Token:
    if not isinstance(token, str | bytes):
        kind = type(token).__name__  # its value may be a secret
        raise ValueError(f"token must be a string, bytes or a function, got {kind}")
    size = len(token.encode() if isinstance(token, str) else token)
    if not 1 <= size <= _MAX_SIZE:
        raise ValueError(f"token must have 1 to {_MAX_SIZE} bytes, got {size}")
    return token
