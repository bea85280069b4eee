"""Headers and control frames as msgpack, and the check that makes a body safe to decode.

A few bytes can demand a lot of a decoder: nesting that exhausts its stack, or a million empty maps
that become 69 MiB of objects. `check_body` decides on the bytes alone, before an object is made,
and nearly always without visiting single values.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from msgpack import Packer, Unpacker, packb, unpackb
from msgpack.exceptions import StackError, UnpackException

from rap.collisions import CollidingKeysError, Kind, Trial

__all__ = [
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "MAX_HEADER_ELEMENTS",
    "MAX_OTHER_KEYS",
    "MAX_SMALL",
    "PLAIN_SIZES",
    "ValueSizes",
    "batch_header",
    "check_body",
    "check_keys",
    "decoded_size",
    "pack",
    "unpack",
    "unpack_header",
    "unpack_map",
    "unpack_small",
]

MAX_DEPTH = 32
MAX_ELEMENTS = 100_000
MAX_HEADER_ELEMENTS = 1000  # of the meta of a frame: names, values, and what is in these
MAX_OTHER_KEYS = 4096  # times and extensions in one map; as many crafted ones take about 10 ms

MAX_SMALL = 16 * 1024  # bytes of a value that costs a peer nothing to send

_FEW = 64  # elements of such a value
_MANY = 256  # values that are worth a look at all of them at once
_SMALL = 16  # bytes of a small scalar

_VISITED = 256  # values of a body of which the size is estimated
# The first bytes of the values of each of `ValueSizes`, but for those of a kind before.
_KINDS = (
    bytes((*range(0xA0, 0xC0), *range(0xC4, 0xCC), *range(0xCD, 0xD0), *range(0xD1, 0xDC))),
    b"\x80",
    bytes((*range(0x81, 0x90), 0xDE, 0xDF)),
    bytes((*range(0x90, 0xA0), 0xDC, 0xDD)),
    bytes(range(256)),
)

# Every byte that cannot be the first byte of an array or a map.
_NOT_CONTAINERS = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))
_EMPTY_ARRAY = b"\x90"
_LARGE = 64  # entries or items; fewer keys that collide take some 60 us
_MANY_NUMBERS = 1024  # fewer numbers that collide take less than 0.5 ms
# What every such map or array with a length of two bytes begins with, and other values may have.
_may_be_large_map = re.compile(rb"\xde(?:[^\x00]|\x00[\x40-\xff])", re.DOTALL).search
_may_be_large_array = re.compile(rb"\xdc(?:[^\x00]|\x00[\x40-\xff])", re.DOTALL).search
_ARRAY_OF_ONE = b"\x91"

# A packer keeps its buffer, so packing must not be interrupted by another thread that uses it.
# With exact types no Python code runs inside `pack`, so the interpreter lock is held throughout.
_pack_exact: Callable[[object], bytes] = Packer(
    use_bin_type=True, autoreset=True, strict_types=True
).pack


def pack(value: object) -> bytes:
    """Return `value` as msgpack.

    Raises:
        ValueError: It holds something that msgpack cannot carry, or nests too deep.
    """
    try:
        return _pack_exact(value)
    except TypeError:
        pass  # a tuple, a subclass of a plain type, or a mistake
    except (OverflowError, RecursionError) as exc:
        raise ValueError(f"cannot be sent as msgpack: {exc}") from exc
    try:
        packed: bytes = packb(value, use_bin_type=True)  # pyright: ignore[reportAssignmentType]
    except (TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"cannot be sent as msgpack: {exc}") from exc
    return packed


def unpack(
    data: bytes | memoryview, *, max_depth: int = MAX_DEPTH, max_elements: int = MAX_ELEMENTS
) -> object:
    """Return the one value that `data` holds; maps have unique string keys.

    Raises:
        ValueError: Malformed, nested deeper than `max_depth`, more than `max_elements` elements,
            or a map whose keys are not unique strings.
    """
    # The decoder refuses keys that are not text before it hashes them.
    check_body(data, max_depth=max_depth, max_elements=max_elements, any_keys=True)
    try:
        return unpackb(data, object_pairs_hook=_strict_map)
    except (UnpackException, RecursionError, TypeError, OverflowError) as exc:
        raise ValueError(f"not valid msgpack: {str(exc) or type(exc).__name__}") from exc


def unpack_header(meta: bytes) -> object:
    """Return the one value that the meta of a frame holds, such as the header of a message.

    Raises:
        ValueError: As of `unpack`; or it has more than `MAX_HEADER_ELEMENTS` elements.
    """
    return unpack(meta, max_elements=MAX_HEADER_ELEMENTS)


def unpack_map(meta: bytes) -> dict[str, Any]:
    """Return the header of a message, which the meta of its frame holds.

    Raises:
        ValueError: As of `unpack_header`; or it is not a map.
    """
    content = unpack_header(meta)
    if not isinstance(content, dict):
        raise ValueError(f"it must be a map, got {type(content).__name__}")
    return content


def unpack_small(data: bytes) -> object:
    """Return the one value that `data` holds, a frame that a peer may send at any time.

    Raises:
        ValueError: As of `unpack`; or it has more than `MAX_SMALL` bytes, or `_FEW` elements.
    """
    if len(data) > MAX_SMALL:
        raise ValueError(f"{len(data)} bytes are too many, the limit is {MAX_SMALL}")
    return unpack(data, max_elements=_FEW)


class ValueSizes(NamedTuple):
    """Bytes of the objects that values become, with the pointer of the list that they are in.

    Args:
        text: A text, bytes, an extension, a float, or a number above 255.
        empty: An empty map.
        map: Any other map.
        array: An array.
        number: A number that Python keeps, a boolean, or nil.
    """

    text: int = 72
    empty: int = 72
    map: int = 240
    array: int = 72
    number: int = 0


PLAIN_SIZES = ValueSizes()


def decoded_size(body: bytes | memoryview, of: ValueSizes = PLAIN_SIZES) -> int:
    """Return about how many bytes a body takes at most when it is decoded.

    An empty map is one byte in msgpack and 73 as a dict in a list. The first values are visited.
    If there are more, each byte of the rest that can begin a value is taken for one.

    Args:
        body: One msgpack value.
        of: What its values become.
    """
    size = len(body)
    pos = 0
    heads = bytearray()
    sizes = _SIZES
    try:
        for _ in range(_VISITED):
            if pos >= size:
                break
            first = body[pos]
            heads.append(first)
            if step := sizes[first]:
                pos += step
            elif first < 0xA0:
                pos += 1
            elif first in _PAYLOAD:
                pos = _after_payload(body, first, pos)
            else:
                _, pos = _long_container(body, first, pos)
    except IndexError:  # cut off
        pos = size
    values = bytes(heads + body[pos:]) if pos < size else bytes(heads)
    left, total = len(values), 0
    for kind, each in zip(_KINDS, of, strict=True):
        found = len(values)
        values = values.translate(None, kind)
        total += each * min(found - len(values), MAX_ELEMENTS)
    return size + min(total, max(of) * min(left, MAX_ELEMENTS))


def batch_header(n: int) -> bytes:
    """Return what makes an array of the `n` packed items that follow it.

    Raises:
        ValueError: `n` is not 0 to 65535.
    """
    if not 0 <= n <= 0xFFFF:
        raise ValueError(f"a batch holds 0 to 65535 items, got {n}")
    return bytes((0x90 | n,)) if n < 16 else b"\xdc" + n.to_bytes(2, "big")


def check_body(
    body: bytes | memoryview,
    *,
    max_depth: int = MAX_DEPTH,
    max_elements: int = MAX_ELEMENTS,
    any_keys: bool = False,
) -> None:
    """Refuse a body that would cost much more to decode than its size suggests.

    What is malformed in another way passes: its decoder stops at the first bad byte, and up to
    there it has met no more than was allowed.

    The hashes of arrays and numbers have no secret, so a peer can choose keys that collide: 365 KB
    of such arrays take seconds to decode. Maps of fewer than 64 entries are not looked at, because
    their keys can do no harm. `rap.collisions` tells which numbers collide.

    Args:
        body: One msgpack value.
        max_depth: Arrays and maps inside each other; a scalar has depth 0, ``[]`` has 1.
        max_elements: Values in all containers together; keys count too.
        any_keys: Allow all keys, for types that declare theirs; see `check_keys`.

    Raises:
        ValueError: A limit is exceeded; the message has the limit. Or a map has keys that are
            arrays or maps, or numbers that collide, or more than `MAX_OTHER_KEYS` that are neither
            text, bytes nor numbers.
    """
    # One byte makes at most one level and at most one element.
    size = len(body)
    if size <= max_depth and size <= max_elements:
        return
    if size > max_elements:
        if _scan(body, max_depth, max_elements) and not any_keys:
            _check_open_keys(body)
        return
    # Text and small numbers hold no container bytes: most bodies are decided here.
    raw = body if type(body) is bytes else bytes(body)
    containers = raw.translate(None, _NOT_CONTAINERS)
    if len(containers) > max_depth:
        _check_depth(body, max_depth)
    if size < 2 * _LARGE or any_keys:
        return
    if b"\xdf" in containers or (b"\xde" in containers and _may_be_large_map(raw)):
        _check_open_keys(raw)


def check_keys(
    body: bytes | memoryview,
    *,
    arrays: bool = False,
    as_tuples: bool = False,
    readers: Sequence[Callable[[bytes], Sequence[Any]]] = (),
) -> None:
    """Refuse keys that collide in a body whose type declares its keys.

    Args:
        body: One msgpack value.
        arrays: The type has sets, so all arrays of the body are checked as well as the maps.
        as_tuples: The items of sets may be arrays.
        readers: Bytes of an array → the keys or items in it, for types whose hash is not that of
            the number or the array that is sent. They raise for other types.

    Raises:
        CollidingKeysError: A map or an array has keys that collide.
        ValueError: The body is malformed.
    """
    if len(body) < 2 * _LARGE:
        return
    raw = body if type(body) is bytes else bytes(body)
    containers = raw.translate(None, _NOT_CONTAINERS)
    maps = b"\xdf" in containers or (b"\xde" in containers and _may_be_large_map(raw))
    if not maps:
        if not arrays:
            return
        if not (b"\xdd" in containers or (b"\xdc" in containers and _may_be_large_array(raw))):
            return
    trial = Trial()

    def check(keys: list[Any], kind: Kind, as_tuples: bool) -> None:
        kinds = {*map(type, keys)}
        if list in kinds and as_tuples:
            trial.check([_as_tuple(key) for key in keys if type(key) in _CHOSEN], kind)
        elif kinds & _NUMBERS and len(keys) >= _MANY_NUMBERS:
            trial.check(_numbers(keys, kinds), kind)
        for read in readers:
            trial.check(_read_keys(read, keys), kind)

    def on_map(pairs: list[tuple[Any, Any]]) -> list[Any]:
        if len(pairs) >= _LARGE:
            check([key for key, _ in pairs], dict, True)
        return []

    def on_array(items: list[Any]) -> list[Any]:
        if len(items) >= _LARGE:
            check(items, set, as_tuples)
        return items

    _walk(raw, on_map, on_array if arrays else None)


def _check_open_keys(body: bytes | memoryview) -> None:
    """Refuse keys whose hashes a peer can choose, before any key is hashed."""
    trial = Trial()

    def on_map(pairs: list[tuple[Any, Any]]) -> list[Any]:
        keys = [key for key, _ in pairs]
        kinds = {*map(type, keys)}
        if list in kinds:
            raise _BadKeyError("a key of a map is an array or a map")
        if len(keys) >= _MANY_NUMBERS and not kinds <= _SALTED:
            numbers = _numbers(keys, kinds)
            trial.check(numbers, dict)
            others = len(keys) - len(numbers)
            if others > MAX_OTHER_KEYS:
                others -= sum(type(key) in _SALTED for key in keys)
            if others > MAX_OTHER_KEYS:
                raise _BadKeyError(
                    f"a map has {others} keys that are times or extensions, the limit is"
                    f" {MAX_OTHER_KEYS}; use text as keys, or an array of pairs"
                )
        return []

    _walk(body, on_map, None)


class _BadKeyError(ValueError):
    """A map has keys that collide, or may."""


_NUMBERS = frozenset((int, float))
_CHOSEN = frozenset((int, float, list))  # types whose hash a peer can choose
_SALTED = frozenset((str, bytes))


def _numbers(keys: list[Any], kinds: set[type]) -> list[Any]:
    return keys if kinds <= _NUMBERS else [key for key in keys if type(key) in _NUMBERS]


def _as_tuple(key: Any) -> Any:
    return tuple([_as_tuple(each) for each in key]) if type(key) is list else key


def _read_keys(read: Callable[[bytes], Sequence[Any]], keys: list[Any]) -> Sequence[Any]:
    """Return the keys up to the first that is of another type; its decoder stops there."""
    read_keys: list[Any] = []
    try:
        read_keys += read(_pack_keys(keys[:1]))
        return read(_pack_keys(keys))
    except Exception:  # a user's type may raise anything
        pass
    try:
        for key in keys[len(read_keys) :] if read_keys else ():
            read_keys += read(_pack_keys([key]))
    except Exception:  # as above
        pass
    return read_keys


def _pack_keys(keys: list[Any]) -> bytes:
    packed: bytes = packb(keys, use_bin_type=True, unicode_errors=_ERRORS)  # pyright: ignore[reportAssignmentType]
    return packed


_ERRORS = "surrogateescape"  # of text, to leave it as it is


def _walk(
    body: bytes | memoryview,
    on_map: Callable[[list[tuple[Any, Any]]], Any],
    on_array: Callable[[list[Any]], Any] | None,
) -> None:
    """Decode a body without hashing a key, and call the functions for its maps and arrays.

    Raises:
        ValueError: The body is malformed, or a function raises it.
    """
    try:
        unpackb(
            body,
            unicode_errors=_ERRORS,
            strict_map_key=False,
            object_pairs_hook=on_map,
            list_hook=on_array,
            ext_hook=_ignore_extension,
        )
    except (_BadKeyError, CollidingKeysError):
        raise
    except (UnpackException, ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"not valid msgpack: {str(exc) or type(exc).__name__}") from exc


def _ignore_extension(code: int, data: bytes) -> None:
    """Build nothing from an extension."""


def _check_depth(body: bytes | memoryview, max_depth: int) -> None:
    """Let the C parser skip the value, so deep already that only `max_depth` levels are left.

    This takes a tenth of the time of decoding. `_scan` takes twice as long as decoding.
    """
    taken = _SKIP_DEPTH - max_depth
    if taken < 0:
        _scan(body, max_depth, len(body))
        return
    parser = Unpacker(max_buffer_size=taken + len(body))
    parser.feed(_ARRAY_OF_ONE * taken)
    parser.feed(body)
    try:
        parser.skip()
    except StackError as exc:
        raise _too_deep(max_depth) from exc
    except (UnpackException, ValueError):
        return  # malformed


def _fixed_depth(parser_type: Any, most: int = 1 << 14) -> int:
    """Return how many levels deep `parser_type.skip` goes, or -1 if that is not a fixed number.

    The stack of the C library has a fixed size; pure Python recurses instead.
    """
    if parser_type.__module__.endswith("fallback"):
        return -1
    good, bad = 0, most
    while bad - good > 1:
        depth = (good + bad) // 2
        parser = parser_type()
        parser.feed(_ARRAY_OF_ONE * (depth - 1) + _EMPTY_ARRAY)
        try:
            parser.skip()
        except StackError:
            bad = depth
        else:
            good = depth
    return good if bad < most else -1


_SKIP_DEPTH = _fixed_depth(Unpacker)


def _scan(body: bytes | memoryview, max_depth: int, max_elements: int) -> bool:
    """Walk over the first bytes of all values; stop where a limit is exceeded.

    Returns:
        Whether there is a map with many entries.
    """
    large_map = False
    sizes, counts = _SIZES, _COUNTS
    pos = elements = 0
    left = 1
    outer: list[int] = []  # values left in each container around the present one
    try:
        while True:
            while left:
                left -= 1
                first = body[pos]
                if size := sizes[first]:
                    pos += size
                    continue
                if first < 0xA0:
                    count = counts[first]
                    pos += 1
                elif first in _PAYLOAD:
                    pos = _after_payload(body, first, pos)
                    continue
                else:
                    start = pos
                    count, pos = _long_container(body, first, pos)
                    if first >= 0xDE and count >= 2 * _LARGE:
                        large_map = True
                if len(outer) >= max_depth:
                    raise _too_deep(max_depth)
                if count:
                    elements += count
                    if elements > max_elements:
                        raise ValueError(
                            f"too many elements: {elements} or more, the limit is {max_elements}"
                        )
                    if count >= _MANY and (end := _end_of_flat(body, start, pos, count)):
                        pos = end
                        continue
                    outer.append(left)
                    left = count
            if not outer:
                return large_map
            left = outer.pop()
    except IndexError:
        return large_map  # cut off


def _end_of_flat(body: bytes | memoryview, start: int, first: int, count: int) -> int:
    """Return where a container ends if it holds nothing but `count` small scalars, else 0.

    The C parser skips them ten times as fast as the scan, which matters for long rows of numbers.

    Args:
        body: The value.
        start: Where the container begins.
        first: Where what it holds begins.
        count: Values in it.
    """
    if _SKIP_DEPTH < 1:
        return 0
    # A row of long texts is cut off and so left to the scan: looking stays cheap.
    part = body[start : first + count * _SMALL]
    parser = Unpacker(max_buffer_size=_SKIP_DEPTH + len(part))
    parser.feed(_ARRAY_OF_ONE * (_SKIP_DEPTH - 1))
    parser.feed(part)
    try:
        parser.skip()
    except (UnpackException, ValueError):
        return 0
    position: int = parser.tell()
    return start + position - (_SKIP_DEPTH - 1)


def _after_payload(body: bytes | memoryview, first: int, pos: int) -> int:
    """Return where the text, the bytes or the extension that begins at `pos` ends."""
    width, beside = _PAYLOAD[first]
    start = pos + 1 + width
    return start + beside + int.from_bytes(body[pos + 1 : start], "big")


def _long_container(body: bytes | memoryview, first: int, pos: int) -> tuple[int, int]:
    """Return how many values an array or a map with a length field holds, and where they begin."""
    width = 2 if first in (0xDC, 0xDE) else 4
    start = pos + 1 + width
    return int.from_bytes(body[pos + 1 : start], "big") * (1 if first < 0xDE else 2), start


# First byte → bytes of its length field, and bytes next to the payload that it counts: bin, ext
# (a type byte), str.
_PAYLOAD = {
    **{0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0)},
    **{0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)},
    **{0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)},
}


def _value_sizes() -> Iterator[int]:
    """Yield for each first byte the size of its value, or 0 where that depends on more bytes."""
    numbers = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5}
    numbers |= {0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
    for first in range(256):
        if 0xA0 <= first <= 0xBF:
            yield 1 + (first & 0x1F)
        elif 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF or first in _PAYLOAD:
            yield 0
        else:
            yield numbers.get(first, 1)


_SIZES = tuple(_value_sizes())
# First byte of a short map or array → the values in it.
_COUNTS = tuple((b & 0x0F) * (2 if b < 0x90 else 1) if b >= 0x80 else 0 for b in range(0xA0))


def _too_deep(max_depth: int) -> ValueError:
    return ValueError(f"nested too deep: more than {max_depth} levels, the limit is {max_depth}")


def _strict_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Return the dict of one map; the last of two equal keys must not win in silence."""
    found = dict(pairs)
    try:
        "".join(found)  # the fastest way to ask
    except TypeError as exc:
        raise ValueError("map keys must be strings") from exc
    if len(found) != len(pairs):
        raise ValueError(f"a map has a duplicate key among {len(pairs)} keys")
    return found
