"""Sealed messages: AES-GCM under the session keys of a connection, bound to one place in one call.

A shared key never encrypts a message itself. With random nonces it would have to be replaced after
2^32 messages (NIST SP 800-38D section 8.3), which a busy service sends in a day. Instead,
HKDF-SHA256 derives two session keys for each connection, one per direction, from the shared key
and the random numbers in both Hellos. Under a session key the nonce is a counter, which is sent in
front of the ciphertext.

The associated data of a sealed message are the key id and random nonce of its call, its direction,
its position, the method and the header. A message therefore cannot be moved to another connection,
call, direction, position or function, and none can be left out.
"""

from rap.call import Call, Encoded, Header, Side
from rap.errors import InvalidArgument, Unauthenticated
from rap.processor.encryption.library import Library, select_library
from rap.wire.codec import pack

__all__ = [
    "END",
    "ERROR",
    "HEADER_NAME",
    "MESSAGE",
    "NONCE_SIZE",
    "MessageSealer",
    "SessionKeys",
    "session_keys_of",
]

HEADER_NAME = ":crypto"  # header of the first message: [key id, nonce of the call]
NONCE_SIZE = 16  # bytes

# What is sealed; part of the associated data.
MESSAGE, END, ERROR = "message", "end", "error"

_LIBRARY = select_library()  # now, because it may be missing
_STATE = "rap.crypto"  # key in `Peer.state`
_COUNTER = 8  # bytes
_TAG = 16  # bytes
_FIXED = bytes(4)  # in front of the counter: GCM takes a nonce of 96 bits


class SessionKeys:
    """The two keys that one connection derives from one shared key.

    Args:
        key: The shared key. The session keys have its length.
        binding: The random numbers of the connection; see `rap.address.Peer`.
        side: Which end of the connection this is.
        library: What encrypts; `None`: the fastest that is installed.
    """

    def __init__(
        self, key: bytes, binding: bytes, side: Side, library: Library | None = None
    ) -> None:
        derive, cipher = library or _LIBRARY
        ours, theirs = (b"c2s", b"s2c") if side is Side.CLIENT else (b"s2c", b"c2s")
        self._seal = cipher(derive(key, binding, b"rap1" + ours)).seal
        self._open = cipher(derive(key, binding, b"rap1" + theirs)).open
        self._sealed = 0  # the next counter; a counter must never repeat under the same key

    def seal(self, associated: bytes, content: Encoded) -> bytes:
        """Return `content` encrypted; `associated` is authenticated with it but not sent."""
        counter = self._sealed.to_bytes(_COUNTER, "big")
        self._sealed += 1
        return counter + self._seal(_FIXED + counter, associated, content)

    def open(self, associated: bytes, sealed: bytes) -> bytes:
        """Return the content of what the peer has sealed.

        Raises:
            ValueError: The peer did not seal this, or not with these associated data.
        """
        if len(sealed) < _COUNTER + _TAG:
            raise ValueError(f"{len(sealed)} bytes are too few")
        view = memoryview(sealed)
        return self._open(_FIXED + sealed[:_COUNTER], associated, view[_COUNTER:])


def session_keys_of(call: Call, key: bytes) -> SessionKeys:
    """Return the session keys of a call's connection for a shared key.

    They are made once per connection, because a second object would use the same counters again.

    Raises:
        Unauthenticated: A Hello of the connection had no random number.
    """
    peer = call.peer
    if peer is None or not peer.binding:
        raise Unauthenticated(
            f"{call.method}: a Hello without 16 to 64 random bytes cannot be trusted"
        )
    made: dict[bytes, SessionKeys] = peer.state.setdefault(_STATE, {})
    keys = made.get(key)
    if keys is None:
        keys = made[key] = SessionKeys(key, peer.binding, call.side)
    return keys


class MessageSealer:
    """Seals and opens the messages of one attempt of a call, in order, for one side.

    Args:
        keys: The session keys of the connection that the attempt uses.
        call: The call.
        key_id: The id of the shared key.
        nonce: The random nonce of the attempt.

    Attributes:
        attempt: The number of the attempt.
        nonce: See above.
        token: The key id and the nonce, as the header of the first message carries them.
    """

    def __init__(self, keys: SessionKeys, call: Call, key_id: str, nonce: bytes) -> None:
        self.attempt = call.attempt
        self.nonce = nonce
        self.token = [key_id, nonce]
        self._keys = keys
        self._method = call.method
        self._sends, self._receives = ("request", "response")
        if call.side is Side.SERVER:
            self._sends, self._receives = self._receives, self._sends
        self._sent = 0
        self._received = 0

    def seal(self, what: str, header: Header, content: Encoded) -> bytes:
        """Return the next message of this side, sealed.

        Args:
            what: `MESSAGE` or `END`.
            header: The header of the message, which is authenticated.
            content: The encoded body.

        Raises:
            InvalidArgument: The header cannot be sent.
        """
        try:
            associated = self._associated(self._sends, what, self._sent, header)
        except ValueError as exc:
            raise InvalidArgument(f"{self._method}: the header {exc}") from exc
        self._sent += 1
        return self._keys.seal(associated, content)

    def open(self, what: str, header: Header, sealed: object) -> bytes:
        """Return the content of the next message of the peer.

        Raises:
            Unauthenticated: The message is plain, or the peer did not seal it for this position.
        """
        if not isinstance(sealed, bytes):
            hint = "; has the server no CryptoProcessor?" if self._receives == "response" else ""
            raise Unauthenticated(
                f"{self._method}: a plain {what} in an encrypted call{hint}",
                details={"reason": "plain"},
            )
        try:
            content = self._keys.open(
                self._associated(self._receives, what, self._received, header), sealed
            )
        except ValueError as exc:
            raise Unauthenticated(
                f"{self._method}: {self._receives} {self._received} cannot be decrypted: the peer "
                f"has another key with the id {self.token[0]!r}, or it was changed on its way: give"
                f" client and server the same key",
                details={"reason": "seal"},
            ) from exc
        self._received += 1
        return content

    def seal_error(self, code: int, content: bytes) -> bytes:
        """Return the content of the error that ends the call, sealed."""
        return self._keys.seal(self._associated(self._sends, ERROR, code, {}), content)

    def open_error(self, code: int, sealed: bytes) -> bytes:
        """Return the content of the error that ended the call.

        Raises:
            ValueError: The server did not seal it for this call and code.
        """
        return self._keys.open(self._associated(self._receives, ERROR, code, {}), sealed)

    def _associated(self, direction: str, what: str, position: int, header: Header) -> bytes:
        names = sorted(name for name in header if name != HEADER_NAME)
        fields = [[name, header[name]] for name in names]
        return pack([self.token, direction, what, position, self._method, fields])
