"""What verifies the tokens of clients: a right one, or a function."""

import inspect
from collections.abc import Callable
from typing import Any

from rap.address import Peer

__all__ = ["Token", "Verifier", "Verify", "verify_with"]

Token = str | bytes
# What users give; see `verify_with`.
Verifier = Token | Callable[..., Any]
Verify = Callable[[Token, Peer], Any]


def verify_with(verifier: object) -> Verify:
    """Return the function that tells who a token belongs to.

    Args:
        verifier: The one right token; or a function, plain or ``async``, of the token, or of token
            and `Peer`. It returns an identity for `Peer.identity`: false for nobody, `True` for
            whom TLS knows, or nobody in particular.

    Raises:
        ValueError: It is an empty token.
        TypeError: It is something else.
    """
    if isinstance(verifier, str | bytes):
        if not verifier:
            raise ValueError("verify_token must not be empty")
        right = _as_bytes(verifier)
        from hmac import compare_digest  # loads hashlib, which few servers need

        return lambda token, peer: compare_digest(_as_bytes(token), right)
    if not callable(verifier):
        raise TypeError(f"verify_token must be a token or a function, got {verifier!r}")
    verify: Callable[..., Any] = verifier
    return verify if _takes_peer(verify) else lambda token, peer: verify(token)


def _takes_peer(verify: Callable[..., Any]) -> bool:
    try:
        inspect.signature(verify).bind("token", "peer")
    except (TypeError, ValueError):
        return False
    return True


def _as_bytes(token: Token) -> bytes:
    return token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token
