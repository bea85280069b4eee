"""Encrypted bodies: AES-GCM under keys of one connection, bound to one place in one call.

A shared key never encrypts anything itself: under random nonces it would be worn out after 2^32
messages (NIST SP 800-38D §8.3), a day for a busy service. HKDF-SHA256 makes two keys of it for
each connection, one a direction, from the random numbers of both Hellos. Under these a counter is
the nonce, and is sent in front of what was sealed.

What is sealed authenticates beside itself the key id and the random nonce of its call, its
direction, its position, the method and the header. So it cannot be moved to another connection,
call, direction, place or function, nor can a message be left out.
"""

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from rap.call import Call, Header, Side
from rap.errors import InvalidArgument, Unauthenticated
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

HEADER_NAME = ":crypto"  # of an Open: [key id, nonce of the call]
NONCE_SIZE = 16  # bytes

# What a sealed thing is; part of what it authenticates.
MESSAGE, END, ERROR = "message", "end", "error"

_LINKS = "rap.crypto"  # key in the state of a connection
_COUNTER = 8  # bytes
_TAG = 16
_FIXED = bytes(4)  # fills the counter up to the 96 bits that GCM takes as they are


class SessionKeys:
    """The two keys of one connection that come from one shared key.

    Args:
        key: The shared key; those made of it are as long.
        binding: Of the connection; see `rap.transport.connection`.
        side: Which end this is.
    """

    def __init__(self, key: bytes, binding: bytes, side: Side) -> None:
        ours, theirs = (b"c2s", b"s2c") if side is Side.CLIENT else (b"s2c", b"c2s")
        self._seal_key = HKDF(key, len(key), binding, SHA256, context=b"rap1" + ours)
        self._open_key = HKDF(key, len(key), binding, SHA256, context=b"rap1" + theirs)
        self._sealed = 0  # never goes back while the key is in use

    def seal(self, beside: bytes, content: bytes) -> bytes:
        """Return `content` encrypted; `beside` is authenticated with it, and not sent."""
        counter = self._sealed.to_bytes(_COUNTER, "big")
        self._sealed += 1
        cipher = AES.new(self._seal_key, AES.MODE_GCM, nonce=_FIXED + counter)
        cipher.update(beside)
        data, tag = cipher.encrypt_and_digest(content)
        return b"".join((counter, data, tag))

    def open(self, beside: bytes, sealed: bytes) -> bytes:
        """Return what the peer has sealed.

        Raises:
            ValueError: It did not seal this, or not with this beside it.
        """
        if len(sealed) < _COUNTER + _TAG:
            raise ValueError(f"{len(sealed)} bytes are too few")
        cipher = AES.new(self._open_key, AES.MODE_GCM, nonce=_FIXED + sealed[:_COUNTER])
        cipher.update(beside)
        return cipher.decrypt_and_verify(sealed[_COUNTER:-_TAG], sealed[-_TAG:])


def session_keys_of(call: Call, key: bytes) -> SessionKeys:
    """Return the link of a call's connection; made once, for two would use the same counters.

    Raises:
        Unauthenticated: A Hello had no random number.
    """
    peer = call.peer
    if peer is None or not peer.binding:
        raise Unauthenticated(
            f"{call.method}: a Hello without 16 to 64 random bytes cannot be trusted"
        )
    links: dict[bytes, SessionKeys] = peer.state.setdefault(_LINKS, {})
    link = links.get(key)
    if link is None:
        link = links[key] = SessionKeys(key, peer.binding, call.side)
    return link


class MessageSealer:
    """One attempt of one call as one side seals and opens its messages, in their order.

    Args:
        link: Of the connection that the attempt goes over.
        call: The call.
        key_id: Of the shared key.
        nonce: Of the attempt.
    """

    def __init__(self, link: SessionKeys, call: Call, key_id: str, nonce: bytes) -> None:
        self.attempt = call.attempt
        self.nonce = nonce
        self.token = [key_id, nonce]
        self._link = link
        self._method = call.method
        self._sends, self._receives = ("request", "response")
        if call.side is Side.SERVER:
            self._sends, self._receives = self._receives, self._sends
        self._sent = 0
        self._received = 0

    def seal(self, what: str, header: Header, content: bytes) -> bytes:
        """Return the next message of this side, sealed.

        Raises:
            InvalidArgument: The header cannot be sent.
        """
        try:
            beside = self._beside(self._sends, what, self._sent, header)
        except ValueError as exc:
            raise InvalidArgument(f"{self._method}: the header {exc}") from exc
        self._sent += 1
        return self._link.seal(beside, content)

    def open(self, what: str, header: Header, sealed: object) -> bytes:
        """Return the next message of the peer.

        Raises:
            Unauthenticated: It is plain, or the peer has not sealed it for this place.
        """
        if not isinstance(sealed, bytes):
            hint = "; has the server no CryptoProcessor?" if self._receives == "response" else ""
            raise Unauthenticated(
                f"{self._method}: a plain {what} in an encrypted call{hint}",
                details={"reason": "plain"},
            )
        try:
            content = self._link.open(
                self._beside(self._receives, what, self._received, header), sealed
            )
        except ValueError as exc:
            raise Unauthenticated(
                f"{self._method}: what came as {self._receives} {self._received} was not sealed "
                f"with the key {self.token[0]!r} for that place, or was changed on its way",
                details={"reason": "seal"},
            ) from exc
        self._received += 1
        return content

    def seal_error(self, code: int, content: bytes) -> bytes:
        """Return the content of the error that ends the call, sealed."""
        return self._link.seal(self._beside(self._sends, ERROR, code, {}), content)

    def open_error(self, code: int, sealed: bytes) -> bytes:
        """Return the content of the error that ended the call.

        Raises:
            ValueError: The server has not sealed it for this call and code.
        """
        return self._link.open(self._beside(self._receives, ERROR, code, {}), sealed)

    def _beside(self, direction: str, what: str, position: int, header: Header) -> bytes:
        names = sorted(name for name in header if name != HEADER_NAME)
        fields = [[name, header[name]] for name in names]
        return pack([self.token, direction, what, position, self._method, fields])
