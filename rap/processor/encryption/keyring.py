"""The shared keys of encrypted calls, by id."""

from collections.abc import Iterator, Mapping

__all__ = ["KEY_SIZES", "Keyring", "check_key", "check_key_id"]

KEY_SIZES = (16, 24, 32)  # bytes: AES-128, AES-192, AES-256
_MAX_ID = 255  # characters


class Keyring:
    """The shared keys of a processor, by id. They may change while calls are made.

    Args:
        keys: Key id to key; see `check_key`.

    Raises:
        ValueError: A key or an id is invalid, or there is none.
    """

    def __init__(self, keys: Mapping[str, str | bytes]) -> None:
        self._keys: dict[str, bytes] = {}
        self.load(keys)
        if not self._keys:
            raise ValueError("a key id and its key are needed, got none")

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def get(self, key_id: str) -> bytes | None:
        """Return the key with an id, or `None`."""
        return self._keys.get(key_id)

    def load(self, keys: Mapping[str, str | bytes]) -> None:
        """Add keys, or replace those with the same id; none if one of them is invalid.

        Raises:
            ValueError: A key or an id is invalid.
        """
        if not isinstance(keys, Mapping):
            raise ValueError(f"keys must be a mapping of key id to key, got {type(keys).__name__}")
        checked = {check_key_id(key_id): check_key(key_id, key) for key_id, key in keys.items()}
        self._keys.update(checked)

    def remove(self, key_id: str) -> None:
        """Forget a key.

        Raises:
            ValueError: No key has this id, or it is the last key.
        """
        if key_id not in self._keys:
            raise ValueError(f"no key has the id {key_id!r}")
        if len(self._keys) == 1:
            raise ValueError(f"{key_id!r} is the only key; load its successor first")
        del self._keys[key_id]


def check_key_id(key_id: object) -> str:
    """Return a key id.

    Raises:
        ValueError: It is not text of 1 to 255 characters.
    """
    if not isinstance(key_id, str) or not 0 < len(key_id) <= _MAX_ID:
        raise ValueError(f"a key_id must be text of 1 to {_MAX_ID} characters, got {key_id!r}")
    return key_id


def check_key(key_id: object, key: object) -> bytes:
    """Return a key as bytes; text is encoded as UTF-8.

    Raises:
        ValueError: It does not have 16, 24 or 32 bytes; the message names the id, never the key.
    """
    if isinstance(key, str):
        key = key.encode("utf-8", "surrogatepass")
    if not isinstance(key, bytes | bytearray):
        raise ValueError(f"the key of {key_id!r} must be str or bytes, not {type(key).__name__}")
    if len(key) not in KEY_SIZES:
        raise ValueError(f"the key of {key_id!r} must have 16, 24 or 32 bytes, it has {len(key)}")
    return bytes(key)
