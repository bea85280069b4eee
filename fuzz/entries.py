"""The places where bytes of others are decoded, and inputs that cost the most known."""

import asyncio
import json
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from faults.colliding import colliding_integers, colliding_tuples, colliding_uuids
from fuzz.corpus import SEEDS
from fuzz.targets import ClientTarget, ProtocolTarget, ServerTarget
from rap.address import Address, Peer
from rap.call import Call, Request, Response, Side, StreamType
from rap.channel import Channel
from rap.cli.descriptions import checked_description
from rap.cli.stubgen.module import stub_module
from rap.errors import CallError, Code, ExceptionTypes, decode_error
from rap.gateway.errors import ErrorReplies
from rap.gateway.request import parse_json
from rap.processor.compress import HEADER_NAME, CompressProcessor
from rap.processor.encryption.sealing import MESSAGE, MessageSealer, session_keys_of
from rap.registry.base import Endpoint
from rap.registry.records import from_record, to_record
from rap.schema.error_fields import fields_of
from rap.schema.function import Function, decode_any, decode_any_items, encode_any, split_items
from rap.schema.reflection import describe
from rap.server import Server
from rap.server.processor import CryptoProcessor
from rap.wire.codec import MAX_ELEMENTS, pack, unpack
from rap.wire.frames import parse_frames, read_go_away, read_reset
from rap.wire.hello import decode_hello
from rap.wire.load_report import ServerLoad, load_frame, read_load

__all__ = ["ENTRIES", "Entry", "dear_bodies", "map_of"]

_KEY, _NONCE, _DAY = b"k" * 16, b"n" * 16, 86_400
_DECODER = 1.0  # microseconds for each byte
_MEMORY = 150  # bytes for each byte: an empty map takes 64, and 8 in a list; a check builds lists


class Entry(NamedTuple):
    """A place where bytes arrive.

    Args:
        make: Returns the function that takes an input, and what releases it. The function may raise
            an error of any kind.
        seeds: Inputs to begin with.
        most: Microseconds that a byte may take.
        memory: Bytes of memory that a byte may take.
    """

    make: Callable[[], tuple[Callable[[bytes], object], Callable[[], object]]]
    seeds: tuple[bytes, ...]
    most: float = _DECODER
    memory: float = _MEMORY


@dataclass
class Row:
    """Values of an object."""

    name: str
    cells: dict[tuple[int, int], Any]


def integers(values: dict[int, Any]) -> None:
    """Take integers as keys."""


def numbers(values: set[int]) -> None:
    """Take integers as items of a set."""


def uuids(values: dict[uuid.UUID, Any]) -> None:
    """Take UUIDs as keys."""


def found(values: set[uuid.UUID]) -> None:
    """Take UUIDs as items of a set."""


def rows(values: list[Row]) -> None:
    """Take objects."""


def anything(values: Any) -> Any:
    """Take and return anything."""


async def talk(channel: Channel[Row, Any]) -> None:
    """Read objects."""


def map_of(keys: Any) -> bytes:
    """Return a map with any keys, as a hostile peer sends it."""
    packed = [pack(key) + b"\xc0" for key in keys]
    return b"\xdf" + len(packed).to_bytes(4, "big") + b"".join(packed)


def dear_bodies(scale: int = 1) -> dict[str, bytes]:
    """Return bodies that cost much for their size.

    Args:
        scale: Divides their size; 1 is the largest that the limits allow.
    """
    most = (MAX_ELEMENTS - 1) // scale
    count = most.to_bytes(4, "big")
    texts = [str(each) for each in colliding_uuids(most // 2)]
    return {
        "arrays that collide as keys": map_of(colliding_tuples(most // 4)),
        "63 of them in each map": b"\xdc\x01\x00" + map_of(colliding_tuples(63)) * 256,
        "integers that collide as keys": map_of(colliding_integers(15 - scale.bit_length() // 2)),
        "1,023 of them in each map": b"\x9f" + map_of(colliding_integers(11)[:1023]) * 15,
        "numbers as keys": map_of(float(n) for n in range(most // 2)),
        "UUIDs that collide": map_of(texts),
        "an array of them": pack(texts),
        "integers": pack(list(range(most))),
        "empty maps": b"\xdd" + count + b"\x80" * most,
        "texts": pack(["x" * 8] * most),
        "arrays in arrays": b"\x91" * 30 + pack([[[[]]]] * (most // 4)),
        "deeper than allowed": b"\x91" * most,
        "objects": pack([{"name": "x", "cells": {}}] * (most // 5)),
    }


def _plain(function: Callable[[bytes], object]) -> Callable[[], Any]:
    return lambda: (function, lambda: None)


def _arguments(function: Callable[..., Any]) -> Callable[[], Any]:
    decode = Function.of(function).decode_call
    return _plain(lambda data: decode(b"\x91" + data))


def _target(kind: type[ProtocolTarget | ClientTarget | ServerTarget]) -> Callable[[], Any]:
    def make() -> Any:
        target = kind()
        return target.run, target.close

    return make


def _call(side: Side) -> Call:
    peer = Peer("127.0.0.1", 1, binding=b"b" * 40)
    return Call("/default/f", StreamType.UNARY, side, {}, peer=peer)


def _compressed() -> Any:
    """Inflate what follows four bytes with its size, on either side, and decode it."""
    loop = asyncio.new_event_loop()
    processor = CompressProcessor()

    async def take(data: bytes) -> None:
        header = {HEADER_NAME: int.from_bytes(data[:4], "big")}
        body = pack(data[4:])
        if data[-1:] < b"\x80":
            request = Request(_call(Side.SERVER), None, header, body, decode_any)
            _ = (await processor.process_request(request)).body
        else:
            response = Response(_call(Side.CLIENT), None, header, body, decode_any)
            _ = (await processor.process_response(response)).body

    def close() -> None:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    return lambda data: loop.run_until_complete(take(data)), close


def _encrypted() -> Any:
    """Open what is not sealed, as the first message of a call."""
    loop = asyncio.new_event_loop()
    processor = CryptoProcessor({"id": _KEY}, timeout=_DAY, nonce_timeout=2 * _DAY)

    async def take(data: bytes) -> None:
        header = {":crypto": ["id", _NONCE]}
        await processor.process_request(Request(_call(Side.SERVER), None, header, data, decode_any))

    return lambda data: loop.run_until_complete(take(data)), loop.close


def _record(data: bytes) -> None:
    """Read a record of a registry: msgpack in Redis, JSON in files."""
    from_record("id", json.loads(data) if data[:1] in b"{[" else unpack(data))


class _SoldOut(CallError):
    """What a client has loaded."""

    def __init__(self, sku: str, left: int, places: dict[str, list[int]] | None = None) -> None:
        super().__init__("sold out")


_TYPES = ExceptionTypes(fields_of)
_TYPES.load([_SoldOut])


def _error(data: bytes) -> None:
    decode_error(*read_reset(data), _TYPES)


def _description(data: bytes) -> None:
    stub_module([checked_description(decode_any(data))])


def _error_of_a_call(data: bytes) -> None:
    """Tell an HTTP client that its arguments are wrong, in a text of which it chooses parts."""
    error = CallError(data.decode("utf-8", "replace"), code=Code.INVALID_ARGUMENT)
    ErrorReplies(debug=False).reply(error)


def _deflated(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + zlib.compress(body, 9)


def _sealed() -> bytes:
    """Return the first message of a call, as `_encrypted` accepts it once."""
    call = _call(Side.CLIENT)
    sealer = MessageSealer(session_keys_of(call, _KEY), call, "id", _NONCE)
    stamp = struct.pack(">qd", round(time.time() * 1000), _DAY)
    return pack(sealer.seal(MESSAGE, {}, stamp + pack([1, "text"])))


_UUIDS = [str(uuid.UUID(int=n << 90)) for n in range(500)]
_BODIES = (
    *dear_bodies(16).values(),
    *(map_of(range(2000)), map_of(_UUIDS), pack(_UUIDS), pack({"name": "x", "cells": {}})),
)
_SMALL = (
    pack({"rap": 1, "random": b"r" * 16, "abilities": ["outcome"]}),
    pack([0, "text", {"type": "ValueError", "retry_after": 1.5}]),
    pack([1, 0, "draining"]),
    parse_frames(load_frame(ServerLoad(5, 0.1, 0.5)))[0].body,
    pack({f"name {n}": n for n in range(60)}),
)
_SOLD_OUT = {"fields": {"sku": "hat", "left": 3, "places": {"a": [1]}}, "type": "mine"}
_ERRORS = (
    pack([9, "text", {"type": "_SoldOut", ":error": _SOLD_OUT, "shop": 7}]),
    pack([9, "text", {"type": "_SoldOut", "sku": "hat", "left": 3}]),
)
_RECORD = to_record(Endpoint(id="id", address=Address.parse("127.0.0.1:9000", option="addr")))


def _descriptions() -> tuple[bytes, ...]:
    server = Server("127.0.0.1:0")
    for function in (rows, anything, uuids, talk):
        server.register(function)
    return tuple(encode_any(describe(each)) for each in server.handlers)


_JSON = (
    *(b"[" * 5000, b"[" + b"{}," * 5000 + b"{}]", b'{"a":' * 900 + b"1" + b"}" * 900),
    *(b"1" * 4300, b"[" + b"1e308," * 5000 + b"1]", b'"' + b"\\u0000" * 5000 + b'"'),
    json.dumps({str(n): n for n in range(5000)}).encode(),
    json.dumps([1 << 60] * 5000).encode(),
)
_TEXTS = (
    *(b"f(): wrong; expected f(password: str), got 1 by position", b"(): " * 5000),
    *(b"f(): " + b"; expected f" * 5000, b"(): ; expected (" * 5000),
)
ENTRIES: Mapping[str, Entry] = {
    "Hello": Entry(_plain(decode_hello), (*_SMALL, *_BODIES)),
    "header": Entry(_plain(unpack), (*_SMALL, *_BODIES)),
    "Reset": Entry(_plain(_error), (*_ERRORS, *_SMALL, *_BODIES)),
    "GoAway": Entry(_plain(read_go_away), (*_SMALL, *_BODIES)),
    "Load": Entry(_plain(read_load), (*_SMALL, *_BODIES)),
    "argument: Any": Entry(_arguments(anything), _BODIES),
    "argument: dict[int, Any]": Entry(_arguments(integers), _BODIES),
    "argument: set[int]": Entry(_arguments(numbers), _BODIES),
    "argument: dict[UUID, Any]": Entry(_arguments(uuids), _BODIES),
    "argument: set[UUID]": Entry(_arguments(found), _BODIES),
    "argument: list[Row]": Entry(_arguments(rows), _BODIES),
    "result": Entry(_plain(Function.of(anything).decode_result), _BODIES),
    "batch": Entry(_plain(decode_any_items), _BODIES),
    "batch, split": Entry(_plain(lambda data: split_items(data, "f()")), _BODIES),
    "message of a channel": Entry(_plain(Function.of(talk).decode_item), _BODIES),
    "encrypted body": Entry(_encrypted, (_sealed(), pack(bytes(5000)), *_BODIES)),
    # A body may be inflated a thousandfold, so this is more than for what comes as it is.
    "compressed body": Entry(
        _compressed,
        (*map(_deflated, _BODIES), _deflated(pack(["x" * 160] * 9000)), _deflated(bytes(1 << 20))),
        most=30.0,
        memory=3000,
    ),
    "record of a registry": Entry(
        _plain(_record), (pack(_RECORD), json.dumps(_RECORD).encode(), *_BODIES, *_JSON)
    ),
    "JSON of the gateway": Entry(_plain(lambda data: parse_json(data, "body")), _JSON),
    "error of the gateway": Entry(_plain(_error_of_a_call), _TEXTS),
    "description for a stub": Entry(
        _plain(_description), (*_descriptions(), *_BODIES), most=5.0, memory=1000
    ),
    "connection: protocol": Entry(_target(ProtocolTarget), tuple(SEEDS), most=5.0, memory=1000),
    "connection: client": Entry(_target(ClientTarget), tuple(SEEDS), most=10.0, memory=1000),
    "connection: server": Entry(_target(ServerTarget), tuple(SEEDS), most=10.0, memory=1000),
}
