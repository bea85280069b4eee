"""The libraries that encrypt, and the one that is used.

What one of them seals the others open. OpenSSL takes a fiftieth of the time for a small message, so
it is used if `cryptography` is installed.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

from rap.call import Encoded

__all__ = ["Cipher", "Library", "openssl", "pycryptodome", "select_library"]


class Cipher(Protocol):
    """AES-GCM (NIST SP 800-38D) with one key and tags of 16 bytes."""

    def seal(self, nonce: bytes, associated: bytes, content: Encoded) -> bytes:
        """Return `content` encrypted, with the tag behind it."""
        ...

    def open(self, nonce: bytes, associated: bytes, sealed: Encoded) -> bytes:
        """Return the content of what `seal` returns.

        Raises:
            ValueError: It was not sealed with this key, nonce and associated data.
        """
        ...


class Library(NamedTuple):
    """What a library provides.

    Args:
        derive: Key, salt and context → a key of the same length, by HKDF-SHA256 (RFC 5869).
        cipher: Key of 16, 24 or 32 bytes → cipher.
    """

    derive: Callable[[bytes, bytes, bytes], bytes]
    cipher: Callable[[bytes], Cipher]


def openssl() -> Library:
    """Return what `cryptography` provides.

    Raises:
        ImportError: It is not installed.
    """
    from rap.processor.encryption.openssl import AesGcm, derive

    return Library(derive, AesGcm)


def pycryptodome() -> Library:
    """Return what pycryptodome provides.

    Raises:
        ImportError: It is not installed.
    """
    from rap.processor.encryption.pycryptodome import AesGcm, derive

    return Library(derive, AesGcm)


@functools.cache
def select_library() -> Library:
    """Return the fastest library that is installed.

    Raises:
        ImportError: None is.
    """
    try:
        return openssl()
    except ImportError:
        return pycryptodome()
