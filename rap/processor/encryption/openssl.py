"""AES-GCM and HKDF of `cryptography`, by OpenSSL; see `rap.processor.encryption.library`."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rap.call import Encoded

__all__ = ["AesGcm", "derive"]


def derive(key: bytes, salt: bytes, context: bytes) -> bytes:
    """Return a key that is as long as `key`, by HKDF-SHA256 (RFC 5869)."""
    return HKDF(SHA256(), len(key), salt, context).derive(key)


class AesGcm:
    """AES-GCM (NIST SP 800-38D) with one key and tags of 16 bytes.

    Args:
        key: 16, 24 or 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        cipher = AESGCM(key)
        self._encrypt, self._decrypt = cipher.encrypt, cipher.decrypt

    def seal(self, nonce: bytes, associated: bytes, content: Encoded) -> bytes:
        """Return `content` encrypted, with the tag behind it."""
        return self._encrypt(nonce, content, associated)

    def open(self, nonce: bytes, associated: bytes, sealed: Encoded) -> bytes:
        """Return the content of what `seal` returns.

        Raises:
            ValueError: It was not sealed with this key, nonce and associated data.
        """
        try:
            return self._decrypt(nonce, sealed, associated)
        except InvalidTag as exc:
            raise ValueError("the tag is another one") from exc
