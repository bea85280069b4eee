"""AES-GCM and HKDF of pycryptodome; see `rap.processor.encryption.library`."""

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from rap.call import Encoded

__all__ = ["AesGcm", "derive"]

_TAG = 16  # bytes


def derive(key: bytes, salt: bytes, context: bytes) -> bytes:
    """Return a key that is as long as `key`, by HKDF-SHA256 (RFC 5869)."""
    derived: bytes = HKDF(key, len(key), salt, SHA256, context=context)  # pyright: ignore[reportAssignmentType]
    return derived


class AesGcm:
    """AES-GCM (NIST SP 800-38D) with one key and tags of 16 bytes.

    Args:
        key: 16, 24 or 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, nonce: bytes, associated: bytes, content: Encoded) -> bytes:
        """Return `content` encrypted, with the tag behind it."""
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=nonce)
        cipher.update(associated)
        data, tag = cipher.encrypt_and_digest(content)
        return data + tag

    def open(self, nonce: bytes, associated: bytes, sealed: Encoded) -> bytes:
        """Return the content of what `seal` returns.

        Raises:
            ValueError: It was not sealed with this key, nonce and associated data.
        """
        if len(sealed) < _TAG:
            raise ValueError(f"{len(sealed)} bytes are too few")
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=nonce)
        cipher.update(associated)
        return cipher.decrypt_and_verify(sealed[:-_TAG], sealed[-_TAG:])
