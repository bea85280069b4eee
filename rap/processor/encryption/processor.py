"""The two processors that encrypt bodies: what a client sends, and what a server answers.

In front of the first message of a call stands when it was made; the server's `ReplayGuard` judges
that and the nonce of the call. Frames themselves stay clear: who calls what and when, deadlines,
sizes, status codes.
"""

import asyncio
import secrets
import struct
from collections.abc import Mapping
from typing import Any

from rap.call import Call, Request, Response, Side
from rap.clock import Clock, clock_of
from rap.errors import Code, Internal, Unauthenticated
from rap.processor.base import BaseProcessor, Failure
from rap.processor.encryption.keyring import Keyring, check_key
from rap.processor.encryption.replay import Fallback, ReplayGuard
from rap.processor.encryption.sealing import (
    END,
    HEADER_NAME,
    MESSAGE,
    NONCE_SIZE,
    MessageSealer,
    session_keys_of,
)
from rap.schema.function import decode_any, encode_any
from rap.shared_state import NonceStore
from rap.shared_state.base import check_number
from rap.wire.codec import pack, unpack

__all__ = ["ClientCryptoProcessor", "ServerCryptoProcessor"]

_GROUP = "CryptoProcessor"  # of the private functions
# What stands in front of the first body: milliseconds since the epoch, seconds it is good for.
_STAMP = struct.Struct(">qd")
_TURN = 32  # messages, some milliseconds of work, after which a side that never waits does


class _Encryption(BaseProcessor):
    """What both sides do alike. It must be the last of its list: closest to the wire."""

    header_name = HEADER_NAME

    def __init__(self) -> None:
        self._state = f"rap.crypto.{id(self):x}"  # key in `Call.state`
        self._handled = 0

    def send_end(self, call: Call, body: Any) -> bytes:
        """Return the proof that nothing comes after the messages sent so far."""
        return self._seal(call).seal(END, {}, encode_any(body))

    def receive_end(self, call: Call, body: Any) -> Any:
        """Return what was sent with the proof of the end.

        Raises:
            Unauthenticated: There is none, or it is not for this place: messages are missing.
        """
        return decode_any(self._seal(call).open(END, {}, body))

    async def _let_others_run(self) -> None:
        """Wait now and then: a message takes long enough for a burst of them to block the loop."""
        self._handled += 1
        if self._handled % _TURN == 0:
            await asyncio.sleep(0)

    def _seal(self, call: Call) -> MessageSealer:
        seal = call.state.get(self._state)
        if not isinstance(seal, MessageSealer):
            raise Internal(f"{call.method}: an encrypted call was not opened as one")
        return seal


class ClientCryptoProcessor(_Encryption):
    """Encrypts what a client sends, and takes nothing but what was encrypted for it.

    Args:
        key_id: Tells the server which key it is.
        key: 16, 24 or 32 bytes; text stands for its UTF-8.
        timeout: Seconds for which a call is good: a server refuses one that is older, or newer
            by its own clock. A server may be stricter.
        interval: Taken for programs of release 0.5.3.8, where it was the time between two looks
            at old nonces. Here a client keeps none: the keys of a connection make an answer
            worthless in any other call.
        clock: Source of time.

    Raises:
        ValueError: An argument has a bad value; the message names it.
    """

    only_side = Side.CLIENT

    def __init__(
        self,
        key_id: str,
        key: str | bytes,
        *,
        timeout: float = 60,
        interval: float = 120,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self._timeout = check_number("timeout", timeout, least=0, above=True)
        check_number("interval", interval, least=0, above=True)
        self._clock = clock_of(clock)
        self.use_key(key_id, key)

    def use_key(self, key_id: str, key: str | bytes) -> None:
        """Encrypt calls made from now on with another key; those under way keep theirs.

        Raises:
            ValueError: The key or its id is not usable.
        """
        Keyring({key_id: key})
        self._key_id, self._key = key_id, check_key(key_id, key)

    async def process_request(self, request: Request) -> Request:
        """Seal a message; the first of an attempt begins with the time."""
        await self._let_others_run()
        call = request.call
        seal = call.state.get(self._state)
        content = encode_any(request.body)
        if seal is None or seal.attempt != call.attempt:
            link = session_keys_of(call, self._key)
            seal = MessageSealer(link, call, self._key_id, secrets.token_bytes(NONCE_SIZE))
            call.state[self._state] = seal
            request.header[HEADER_NAME] = seal.token
            content = _STAMP.pack(round(self._clock.time() * 1000), self._timeout) + content
        request.body = seal.seal(MESSAGE, request.header, content)
        return request

    async def process_response(self, response: Response) -> Response:
        """Open a message of the server.

        Raises:
            Unauthenticated: It is plain, or was not sealed for this place.
        """
        await self._let_others_run()
        seal = self._seal(response.call)
        response.body = decode_any(seal.open(MESSAGE, response.header, response.body))
        return response

    def process_error(self, call: Call, failure: Failure) -> Failure:
        """Open the error that ended a call.

        One that is not sealed was made before the server knew the key, or by somebody on the way.
        It keeps its code and text, but is never taken for an exception of the handler.
        """
        code, message, details = failure
        sealed = details.get("sealed")
        seal = call.state.get(self._state)
        if not isinstance(sealed, bytes) or seal is None:
            return code, message, {k: v for k, v in details.items() if k != "type"}
        try:
            match unpack(seal.open_error(code, sealed)):
                case [str(text), dict(content)]:
                    return code, text, content
        except ValueError:
            pass
        text = f"{call.method}: the call failed, by an error that was changed on its way"
        return Code.UNAUTHENTICATED, text, {"reason": "seal"}


class ServerCryptoProcessor(_Encryption):
    """Lets in encrypted calls only, each of them once, and encrypts what it answers.

    Args:
        keys: Key id to key of 16, 24 or 32 bytes; text stands for its UTF-8.
        timeout: Seconds by which a call's timestamp may differ from this machine's clock.
        nonce_timeout: Seconds for which the nonce of a call is remembered; twice the timeout if
            that is more.
        nonce_store: URL or object of the nonces that all instances share; see `rap.shared_state`.
        nonce_fallback: ``local``: while that store cannot answer, this process decides alone;
            otherwise calls are refused.
        clock: Source of time.

    Raises:
        ValueError: An argument has a bad value; the message names it.
    """

    only_side = Side.SERVER

    def __init__(
        self,
        keys: Mapping[str, str | bytes],
        *,
        timeout: float = 60,
        nonce_timeout: float = 120,
        nonce_store: str | NonceStore | None = None,
        nonce_fallback: Fallback = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self._keys = Keyring(keys)
        self.guard = ReplayGuard(timeout, nonce_timeout, nonce_store, nonce_fallback, clock)
        for function in (
            self.get_crypto_key_id_list,
            self.load_aes_key_dict,
            self.remove_aes,
            self.modify_crypto_timeout,
            self.modify_crypto_nonce_timeout,
        ):
            self.register(function, group=_GROUP)

    async def process_request(self, request: Request) -> Request:
        """Open a message; the first says whether the call may run.

        Raises:
            Unauthenticated: It is plain, its key is unknown, or it was not sealed for this place;
                or the call was made before.
            CallError: FAILED_PRECONDITION: the call's timestamp is outside the window.
            Unavailable: The store of nonces cannot answer.
        """
        await self._let_others_run()
        call = request.call
        seal = call.state.get(self._state)
        if seal is not None:
            request.body = decode_any(seal.open(MESSAGE, request.header, request.body))
            return request
        seal = self._seal_of(call, request.header.pop(HEADER_NAME, None))
        content = seal.open(MESSAGE, request.header, request.body)
        call.state[self._state] = seal  # the caller has the key: errors are sealed from here on
        if len(content) < _STAMP.size:
            raise Unauthenticated(
                f"{call.method}: a call without a time", details={"reason": "seal"}
            )
        made, validity = _STAMP.unpack_from(content)
        await self.guard.admit(seal.nonce, made / 1000, validity)
        request.body = decode_any(content[_STAMP.size :])
        return request

    async def process_response(self, response: Response) -> Response:
        """Seal a message."""
        await self._let_others_run()
        seal = self._seal(response.call)
        response.body = seal.seal(MESSAGE, response.header, encode_any(response.body))
        return response

    def process_error(self, call: Call, failure: Failure) -> Failure:
        """Seal text and details of the error that ends a call; its code stays clear."""
        seal = call.state.get(self._state)
        if seal is None:
            return failure  # the caller has not shown a key, and no handler has run
        code, message, details = failure
        return (
            code,
            "the error is encrypted",
            {"sealed": seal.seal_error(code, pack([message, details]))},
        )

    async def stop_event_handle(self) -> None:
        """Release the shared store of nonces."""
        await self.guard.aclose()

    # Private functions.

    async def get_crypto_key_id_list(self) -> list[str]:
        """Return the ids of the keys that are taken."""
        return list(self._keys)

    async def load_aes_key_dict(self, aes_key_dict: dict[str, Any]) -> None:
        """Take more keys, or others in place of those with the same id."""
        self._keys.load(aes_key_dict)

    async def remove_aes(self, key: str) -> None:
        """Take calls under a key no more; those under way go on. `key` is its id."""
        self._keys.remove(key)

    async def modify_crypto_timeout(self, timeout: float) -> None:
        """Change the seconds by which a timestamp may differ."""
        self.guard.timeout = check_number("timeout", timeout, least=0, above=True)

    async def modify_crypto_nonce_timeout(self, timeout: float) -> None:
        """Change the seconds for which nonces are remembered from now on."""
        self.guard.nonce_timeout = check_number("nonce_timeout", timeout, least=0, above=True)

    def _seal_of(self, call: Call, token: object) -> MessageSealer:
        """Return the seal of a call for what its Open says of it."""
        match token:
            case [str(key_id), bytes(nonce)] if len(nonce) == NONCE_SIZE:
                pass
            case _:
                text = f"{call.method}: this server takes encrypted calls only"
                raise Unauthenticated(text, details={"reason": "plain"})
        key = self._keys.get(key_id)
        if key is None:
            text = f"{call.method}: no key has the id {key_id!r}"
            raise Unauthenticated(text, details={"reason": "key"})
        return MessageSealer(session_keys_of(call, key), call, key_id, nonce)
