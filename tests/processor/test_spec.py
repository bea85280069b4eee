"""PROTOCOL.md §8.6, written down once more with another library than ours."""

import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rap.processor.encryption import library
from rap.transport.connection import channel_binding
from rap.wire.codec import pack, unpack
from tests.processor.encrypted import KEY_ID, ClientCrypto, ServerCrypto
from tests.processor.ends import Ends

CLIENT, SERVER = b"c" * 16, b"s" * 20
SALT = b"\0\0\0\x10" + CLIENT + b"\0\0\0\x14" + SERVER


@pytest.fixture(
    autouse=True, params=[library.openssl, library.pycryptodome], ids=["openssl", "pycryptodome"]
)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rap.processor.encryption.sealing._LIBRARY", request.param())


def opened(key: bytes, info: bytes, body: bytes, beside: list[Any]) -> bytes:
    derived = HKDF(hashes.SHA256(), len(key), SALT, info).derive(key)
    return AESGCM(derived).decrypt(bytes(4) + body[:8], body[8:], pack(beside))


@pytest.mark.parametrize("size", [16, 24, 32])
async def test_bodies_are_what_the_specification_says(size: int) -> None:
    key = bytes(range(size))
    ends = Ends(
        ClientCrypto(KEY_ID, key, timeout=45),
        ServerCrypto({KEY_ID: key}),
        channel_binding(CLIENT, SERVER),
    )
    call = ends.call("/default/f")
    header, body = await ends.ask(call, [1, "two"], b=2, a=[1])
    token = header[":crypto"]
    assert token[0] == KEY_ID
    assert len(token[1]) == 16
    beside = [token, "request", "message", 0, "/default/f", [["a", [1]], ["b", 2]]]
    content = opened(key, b"rap1c2s", body, beside)
    made, validity = struct.unpack_from(">qd", content)
    assert validity == 45
    assert made > 1_700_000_000_000
    assert unpack(content[16:]) == [1, "two"]

    arrived = ends.arriving((header, body))
    assert await ends.hear(arrived, (header, body)) == [1, "two"]
    _, answer = await ends.answer(arrived, "answer")
    beside = [token, "response", "message", 0, "/default/f", []]
    assert unpack(opened(key, b"rap1s2c", answer, beside)) == "answer"
    end = ends.server.send_end(arrived, None)
    beside = [token, "response", "end", 1, "/default/f", []]
    assert unpack(opened(key, b"rap1s2c", end, beside)) is None
    _, _, details = ends.server.process_error(arrived, (2, "text", {"type": "ValueError"}))
    beside = [token, "response", "error", 2, "/default/f", []]
    failure = unpack(opened(key, b"rap1s2c", details["sealed"], beside))
    assert failure == ["text", {"type": "ValueError"}]
