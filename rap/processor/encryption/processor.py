"""Processors that encrypt the bodies and errors of calls: one for clients, one for servers.

The first message of a call begins with a timestamp. The server's `ReplayGuard` checks it together
with the nonce of the call. Frames are not encrypted: method names, times, deadlines, sizes and
status codes remain visible on the wire.
"""

import asyncio
import secrets
import struct
from collections.abc import Mapping
from typing import Any

from rap.call import Call, Request, Response, Side
from rap.clock import Clock, clock_of
from rap.errors import RAISED, Code, Internal, Unauthenticated
from rap.processor.base import BaseProcessor, Failure, bytes_of, encode_body
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

_GROUP = "CryptoProcessor"  # group of the private functions
# The timestamp in front of the first body: milliseconds since the epoch, seconds of validity.
_STAMP = struct.Struct(">qd")
_MESSAGES_PER_TURN = 32  # some milliseconds of work; then other tasks may run


class _Encryption(BaseProcessor):
    """The part that both sides share. It must be the last processor of its list."""

    header_name = HEADER_NAME
    only_bytes = True

    def __init__(self) -> None:
        self._state = f"rap.crypto.{id(self):x}"  # key of the `MessageSealer` in `Call.state`
        self._handled = 0

    def send_end(self, call: Call, body: Any) -> bytes:
        """Return the proof that no message follows those sent so far."""
        return self._sealer(call).seal(END, {}, encode_any(body))

    def receive_end(self, call: Call, body: Any) -> Any:
        """Return the body that was sent with the proof of the end.

        Raises:
            Unauthenticated: The proof is missing or is for another position, so messages are
                missing.
        """
        return decode_any(self._sealer(call).open(END, {}, body))

    async def _let_others_run(self) -> None:
        """Yield to the event loop every 32 messages, so that a burst does not block it."""
        self._handled += 1
        if self._handled % _MESSAGES_PER_TURN == 0:
            await asyncio.sleep(0)

    def _sealer(self, call: Call) -> MessageSealer:
        sealer = call.state.get(self._state)
        if not isinstance(sealer, MessageSealer):
            raise Internal(f"{call.method}: an encrypted call was not opened as one")
        return sealer


class ClientCryptoProcessor(_Encryption):
    """Encrypts what a client sends and accepts only what was encrypted for it.

    Args:
        key_id: The id by which the server finds the key.
        key: 16, 24 or 32 bytes. Text is encoded as UTF-8.
        timeout: Seconds that the timestamp of a call may differ from the server's clock, either
            way. The server may allow less.
        interval: Has no effect. Release 0.5.3.8 had it as the time between two clean-ups of old
            nonces. A client no longer keeps any, because session keys make an answer worthless in
            any other call.
        clock: Source of time.

    Raises:
        ValueError: An argument is invalid; the message names it.
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
        """Encrypt new calls with another key; calls in flight keep theirs.

        Raises:
            ValueError: The key or its id is invalid.
        """
        Keyring({key_id: key})
        self._key_id, self._key = key_id, check_key(key_id, key)

    async def process_request(self, request: Request) -> Request:
        """Seal a message; the first of an attempt begins with a timestamp."""
        await self._let_others_run()
        call = request.call
        sealer = call.state.get(self._state)
        content = encode_body(request)
        if sealer is None or sealer.attempt != call.attempt:
            keys = session_keys_of(call, self._key)
            sealer = MessageSealer(keys, call, self._key_id, secrets.token_bytes(NONCE_SIZE))
            call.state[self._state] = sealer
            request.header[HEADER_NAME] = sealer.token
            stamp = _STAMP.pack(round(self._clock.time() * 1000), self._timeout)
            content = b"".join((stamp, content))
        request.body = sealer.seal(MESSAGE, request.header, content)
        return request

    async def process_response(self, response: Response) -> Response:
        """Open a message of the server.

        Raises:
            Unauthenticated: The message is plain, or was not sealed for this position.
        """
        await self._let_others_run()
        sealer = self._sealer(response.call)
        content = sealer.open(MESSAGE, response.header, bytes_of(response))
        response.set_encoded(content, decode_any)
        return response

    def process_error(self, call: Call, failure: Failure) -> Failure:
        """Open the error that ended a call.

        An error that is not sealed was made before the server knew the key, or by an attacker. It
        keeps its code and text, but never becomes an exception type of the handler.
        """
        code, message, details = failure
        sealed = details.get("sealed")
        sealer = call.state.get(self._state)
        if not isinstance(sealed, bytes) or sealer is None:
            return code, message, {k: v for k, v in details.items() if k not in ("type", RAISED)}
        try:
            match unpack(sealer.open_error(code, sealed)):
                case [str(text), dict(content)]:
                    return code, text, content
        except ValueError:
            pass
        text = f"{call.method}: the call failed, by an error that was changed on its way"
        return Code.UNAUTHENTICATED, text, {"reason": "seal"}


class ServerCryptoProcessor(_Encryption):
    """Accepts only encrypted calls, each of them once, and encrypts the answers.

    Args:
        keys: Key id to key of 16, 24 or 32 bytes. Text is encoded as UTF-8.
        timeout: Seconds that the timestamp of a call may differ from this machine's clock.
        nonce_timeout: Seconds that the nonce of a call is remembered, at least twice the timeout.
        nonce_store: URL or object of the nonce store that all instances share; see
            `rap.shared_state`.
        nonce_fallback: ``local`` lets this process decide alone while the store does not answer.
            With `None`, calls are refused meanwhile.
        clock: Source of time.

    Raises:
        ValueError: An argument is invalid; the message names it.
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
        """Open a message; the first one decides whether the call may run.

        Raises:
            Unauthenticated: The message is plain, its key is unknown, it was not sealed for this
                position, or the call is a replay.
            CallError: FAILED_PRECONDITION: the timestamp of the call is outside the window.
            Unavailable: The nonce store does not answer.
        """
        await self._let_others_run()
        call = request.call
        sealer = call.state.get(self._state)
        if sealer is not None:
            content = sealer.open(MESSAGE, request.header, bytes_of(request))
            request.set_encoded(content, decode_any)
            return request
        sealer = self._new_sealer(call, request.header.pop(HEADER_NAME, None))
        content = sealer.open(MESSAGE, request.header, bytes_of(request))
        call.state[self._state] = sealer  # the caller has the key: from here on errors are sealed
        if len(content) < _STAMP.size:
            raise Unauthenticated(
                f"{call.method}: a call without a time", details={"reason": "seal"}
            )
        made, validity = _STAMP.unpack_from(content)
        await self.guard.admit(sealer.nonce, made / 1000, validity)
        request.set_encoded(content[_STAMP.size :], decode_any)
        return request

    async def process_response(self, response: Response) -> Response:
        """Seal a message."""
        await self._let_others_run()
        sealer = self._sealer(response.call)
        response.body = sealer.seal(MESSAGE, response.header, encode_body(response))
        return response

    def process_error(self, call: Call, failure: Failure) -> Failure:
        """Seal the text and details of the error that ends a call; its code stays visible."""
        sealer = call.state.get(self._state)
        if sealer is None:
            return failure  # the caller has not proved that it has a key, and no handler ran
        code, message, details = failure
        return (
            code,
            "the error is encrypted",
            {"sealed": sealer.seal_error(code, pack([message, details]))},
        )

    async def stop_event_handle(self) -> None:
        """Release the shared nonce store."""
        await self.guard.aclose()

    async def get_crypto_key_id_list(self) -> list[str]:
        """Return the ids of the accepted keys. Private function."""
        return list(self._keys)

    async def load_aes_key_dict(self, aes_key_dict: dict[str, Any]) -> None:
        """Add keys, or replace those with the same id. Private function."""
        self._keys.load(aes_key_dict)

    async def remove_aes(self, key: str) -> None:
        """Refuse new calls under the key with the id `key`. Private function."""
        self._keys.remove(key)

    async def modify_crypto_timeout(self, timeout: float) -> None:
        """Set the seconds that a timestamp may differ. Private function."""
        self.guard.set_timeout(timeout)

    async def modify_crypto_nonce_timeout(self, timeout: float) -> None:
        """Set the seconds that new nonces are remembered. Private function."""
        self.guard.set_nonce_timeout(timeout)

    def _new_sealer(self, call: Call, token: object) -> MessageSealer:
        """Return the sealer of a call, from the header of its first message."""
        match token:
            case [str(key_id), bytes(nonce)] if len(nonce) == NONCE_SIZE:
                pass
            case _:
                text = (
                    f"{call.method}: this server takes encrypted calls only: load a CryptoProcessor"
                    f" into the client"
                )
                raise Unauthenticated(text, details={"reason": "plain"})
        key = self._keys.get(key_id)
        if key is None:
            text = f"{call.method}: no key has the id {key_id!r}: give both sides the same id"
            raise Unauthenticated(text, details={"reason": "key"})
        return MessageSealer(session_keys_of(call, key), call, key_id, nonce)
