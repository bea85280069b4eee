"""What fuzzing begins with: conversations that are well formed, one per thing that can be said.

The first byte of an input says which side or server takes it, the second how it is cut.
"""

from rap.errors import Code
from rap.wire.codec import pack
from rap.wire.frames import (
    BATCH,
    DATA,
    DONE,
    END,
    GOAWAY,
    MESSAGE,
    MORE,
    OPEN,
    RESET,
    Frame,
    credit_frame,
    go_away_frame,
    ping_frame,
)
from rap.wire.hello import DEFAULT_LIMITS, hello_frame

__all__ = ["SEEDS"]

_WHOLE = MESSAGE | END


def _opening(stream: int, method: str, body: object, flags: int = _WHOLE) -> bytes:
    meta = pack([f"/default/{method}", 0])
    return Frame(OPEN, flags, stream, meta, pack(body)).encode()


def _data(stream: int, body: object, flags: int = MESSAGE, meta: bytes = b"") -> bytes:
    return Frame(DATA, flags, stream, meta, pack(body)).encode()


def _cancel(stream: int) -> bytes:
    return Frame(RESET, 0, stream, b"", pack([Code.CANCELLED, "", {}])).encode()


def _bare(stream: int, flags: int, header: object) -> bytes:
    return Frame(DATA, flags, stream, pack(header), b"").encode()


def _done(stream: int) -> bytes:
    return Frame(DONE, 0, stream).encode()


_HELLO = hello_frame(
    {"rap": 1, **DEFAULT_LIMITS.to_hello(), "random": b"r" * 16, "abilities": ["outcome"]}
)
_TALKS = [
    _opening(1, "add", [1, 2]) + _opening(3, "add", [1, "x"]) + _opening(5, "none", []),
    _opening(1, "echo", [{"a": [1, 2.5, None, True, b"x"]}]),
    _opening(1, "count", [5]) + credit_frame(1, 1000) + credit_frame(0, 1000),
    _opening(1, "talk", None, 0) + _data(1, "hi") + _data(1, "bye", _WHOLE),
    _opening(1, "talk", None, 0) + _data(1, [1, 2], MESSAGE | BATCH) + _cancel(1),
    _opening(1, "echo", ["x"], MORE) + _data(1, "y", MORE) + _data(1, "z", _WHOLE),
    _opening(1, "upload", ["x"], MESSAGE) + _data(1, 1) + _data(1, [2, 3], MESSAGE | BATCH | END),
    _opening(1, "upload", ["x"], MESSAGE) + _data(1, [1, "x"], MESSAGE | BATCH) + _cancel(1),
    _opening(1, "doubled", [], MESSAGE) + _data(1, 1) + _bare(1, END, {"h": 1}),
    _opening(1, "room", ["x"], MESSAGE) + _data(1, 1) + _done(1) + _data(1, 2),
    _opening(1, "room", ["x"], MESSAGE) + _bare(1, END, {}) + _done(1) + _done(1),
    _opening(1, "room", ["x"], MORE) + _done(1) + _bare(1, 0, {"h": 1}) + _done(3),
    _opening(1, "wait", []) + _done(1) + _cancel(1) + _done(1),
    _data(1, 3, MESSAGE, pack({"h": 1})) + _bare(1, END, {":trailer": {"t": 1}}),
    _data(3, 3, MESSAGE, pack({":result": True})) + _data(3, None, END),
    _data(3, None, MESSAGE, pack({":end": True})) + _data(3, None, END),
    _opening(1, "wait", []) + _cancel(1) + _opening(3, "wait", []) + ping_frame(b"12345678"),
    _opening(1, "list", []) + ping_frame(b"12345678", ack=True),
    _data(1, 3, _WHOLE) + _data(3, 4, _WHOLE, pack({"h": 1})),
    _data(3, [1, 2], MESSAGE | BATCH) + _data(3, None, END) + _data(5, "x" * 2000),
    go_away_frame(1, Code.OK, "draining") + Frame(GOAWAY, 0, 0, b"", b"").encode(),
    Frame(99, 7, 9, b"m", b"body").encode(),
]
SEEDS = [bytes([side, cut]) + _HELLO + talk for talk in _TALKS for side in (0, 1) for cut in (0, 7)]
