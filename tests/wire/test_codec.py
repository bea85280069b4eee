import itertools
import uuid
from contextlib import suppress
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgpack import ExtType, Timestamp, Unpacker, fallback, packb

from faults.colliding import colliding_integers, colliding_tuples, colliding_uuids
from rap.wire.codec import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    _fixed_depth,
    batch_header,
    check_body,
    check_keys,
    decoded_size,
    pack,
    unpack,
    unpack_header,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=60,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, list):
        return 0
    return 1 + max(map(depth_of, value), default=0)


def elements_of(value: Any) -> int:
    if isinstance(value, dict):
        return 2 * len(value) + sum(map(elements_of, value.values()))
    return len(value) + sum(map(elements_of, value)) if isinstance(value, list) else 0


def nested(depth: int, innermost: bytes = b"\x90") -> bytes:
    return b"\x91" * (depth - 1) + innermost


def array_of(n: int, item: bytes) -> bytes:
    return b"\xdd" + n.to_bytes(4, "big") + item * n


# --- pack and unpack


@given(VALUES)
def test_what_is_packed_comes_back(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(VALUES)
def test_a_view_of_bytes_unpacks_like_bytes(value: Any) -> None:
    assert unpack(memoryview(pack(value))) == value


@given(st.binary(max_size=200) | st.binary(min_size=33).map(lambda b: b"\x91" * 20 + b))
@example(b"")
@example(b"\xc1")
@example(b"\x81\x90\xc0")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xdb\xff\xff\xff\xff")
@example(b"\xc9\xff\xff\xff\xff\x00")
@example(b"\xd6\xff\xff\xff\xff\xff")
@example(b"\xd4\xff\x00")
@example(b"\xa1\xff")
def test_any_bytes_unpack_or_raise_value_error(data: bytes) -> None:
    with suppress(ValueError):
        unpack(data)


def test_tuples_and_subclasses_are_packed_as_what_they_extend() -> None:
    class Level(IntEnum):
        HIGH = 3

    assert unpack(pack({"levels": (Level.HIGH, 1)})) == {"levels": [3, 1]}


@pytest.mark.parametrize(
    "value", [object(), {"a": {1, 2}}, 2**64, [-(2**63) - 1], (2**64,), {"a": (object(),)}]
)
def test_what_msgpack_cannot_carry_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="msgpack"):
        pack(value)


def test_a_failed_pack_leaves_nothing_behind() -> None:
    with pytest.raises(ValueError, match="msgpack"):
        pack([1, 2, 3, 2**64])
    assert pack([1]) == b"\x91\x01"


def test_a_cycle_cannot_be_packed() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="limit"):
        pack(cycle)


@pytest.mark.parametrize("key", [b"bytes", 1, None, 1.5, True])
def test_only_strings_are_keys(key: object) -> None:
    with pytest.raises(ValueError, match="key"):
        unpack(packb({"outer": {key: 1}}))


def test_a_duplicate_key_is_refused() -> None:
    with pytest.raises(ValueError, match="duplicate key among 2"):
        unpack(b"\x82\xa1a\x01\xa1a\x02")


def test_bytes_after_the_value_are_refused() -> None:
    with pytest.raises(ValueError, match="extra data"):
        unpack(b"\x01\x02")


def test_extension_types_come_back() -> None:
    values = [ExtType(5, b"xyz"), Timestamp(12, 34)]
    assert unpack(pack(values)) == values


# --- the header of a batch


@given(st.lists(SCALARS, max_size=40))
def test_packed_items_behind_a_batch_header_are_a_list(items: list[Any]) -> None:
    assert unpack(batch_header(len(items)) + b"".join(map(pack, items))) == items


@pytest.mark.parametrize("n", [0, 15, 16, 65535])
def test_a_batch_header_is_that_of_an_array(n: int) -> None:
    assert batch_header(n) + b"\xc0" * n == packb([None] * n)


@pytest.mark.parametrize("n", [-1, 65536])
def test_a_batch_has_a_limit(n: int) -> None:
    with pytest.raises(ValueError, match=f"0 to 65535 items, got {n}"):
        batch_header(n)


# --- check_body


@given(VALUES, st.integers(0, 6))
def test_depth_is_refused_exactly_above_the_limit(value: Any, limit: int) -> None:
    fits = depth_of(value) <= limit
    assert fits is passes(pack(value), max_depth=limit)
    assert fits is passes(memoryview(pack(value)), max_depth=limit)


@given(VALUES, st.integers(0, 40), st.integers(0, 6))
def test_depth_and_elements_are_refused_exactly_above_the_limits(
    value: Any, elements: int, depth: int
) -> None:
    fits = elements_of(value) <= elements and depth_of(value) <= depth
    assert fits is passes(pack(value), max_elements=elements, max_depth=depth)
    assert fits is passes(memoryview(pack(value)), max_elements=elements, max_depth=depth)


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 40))
def test_any_bytes_pass_or_raise_value_error(data: bytes, elements: int, depth: int) -> None:
    passes(data, max_elements=elements, max_depth=depth)


def passes(body: bytes | memoryview, **limits: Any) -> bool:
    try:
        check_body(body, **limits)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("innermost", [b"\x90", b"\x80", b"\xdc\x00\x00", b"\xdf\x00\x00\x00\x00"])
@pytest.mark.parametrize("tail", [b"", b"\x00" * (MAX_ELEMENTS + 1)])
def test_the_limit_of_depth_is_thirty_two_levels(innermost: bytes, tail: bytes) -> None:
    check_body(nested(MAX_DEPTH, innermost) + tail)
    with pytest.raises(ValueError, match="the limit is 32"):
        check_body(nested(MAX_DEPTH + 1, innermost) + tail)


@pytest.mark.parametrize("depth", [33, 1_000, 1_024, 1_025, 50_000, 1_000_000])
def test_a_nesting_bomb_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        check_body(nested(depth))


def test_a_limit_deeper_than_the_c_parser_goes_is_kept() -> None:
    check_body(nested(3_000) + b"\x80", max_depth=3_000)
    with pytest.raises(ValueError, match="the limit is 3000"):
        check_body(nested(3_001), max_depth=3_000)


def test_only_a_parser_with_a_stack_of_fixed_size_is_trusted_with_depth() -> None:
    class Bottomless(fallback.Unpacker):  # type: ignore[misc]  # msgpack has no types
        def skip(self) -> None:
            pass

    assert _fixed_depth(Unpacker) == 1024
    assert _fixed_depth(fallback.Unpacker) == -1
    assert _fixed_depth(Bottomless) == -1


def test_an_element_bomb_is_refused_by_its_header_alone() -> None:
    with pytest.raises(ValueError, match="1000000 or more, the limit is 100000"):
        check_body(array_of(1_000_000, b"\x80"))


def test_elements_of_all_containers_count_together() -> None:
    part = array_of(MAX_ELEMENTS // 10 - 1, b"\x80")
    check_body(array_of(10, part))
    with pytest.raises(ValueError, match="too many elements"):
        check_body(array_of(11, part))


def test_a_map_counts_keys_and_values() -> None:
    pairs = MAX_ELEMENTS // 2
    with pytest.raises(ValueError, match="too many elements"):
        check_body(b"\xdf" + (pairs + 1).to_bytes(4, "big") + b"\xa0\x01" * (pairs + 1))


@pytest.mark.parametrize("last", [1, "long " * 4000, [], {}, [[]], {"a": [1]}])
@pytest.mark.parametrize("native", [True, False])
def test_long_rows_of_scalars_are_counted_exactly(
    last: Any, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:  # as where msgpack is pure Python
        monkeypatch.setattr("rap.wire.codec._SKIP_DEPTH", -1)
    numbers: list[Any] = [*range(300), *(0.5 * n for n in range(300)), last]
    value = [numbers, {str(n): n for n in range(300)}, numbers]
    size, depth = elements_of(value), depth_of(value)
    check_body(pack(value), max_elements=size, max_depth=depth)
    for limits in ({"max_elements": size - 1}, {"max_elements": size, "max_depth": depth - 1}):
        assert not passes(pack(value), **limits)
        assert not passes(memoryview(pack(value)), **limits)


def test_payloads_are_no_elements() -> None:
    noise = bytes(range(256)) * 500
    check_body(packb([noise, "é" * 60_000, ExtType(1, noise), noise[:300], ExtType(2, noise[:16])]))


def test_a_body_that_is_cut_off_is_left_to_its_decoder() -> None:
    whole = packb([[{"a": [1, "two", b"three"]}] * 20] * 300)
    for end in range(1, len(whole), 997):
        check_body(whole[:end])
        check_body(whole[:end], max_elements=0 if end == 1 else end - 1)


# --- keys


def map_of(pairs: list[tuple[Any, Any]]) -> bytes:
    """Return a map with any keys, as a hostile peer sends it."""
    content = b"".join(_packed(key) + packb(value) for key, value in pairs)
    return b"\xdf" + len(pairs).to_bytes(4, "big") + content


def _packed(value: Any) -> bytes:
    packed: bytes = packb(value, unicode_errors="surrogateescape")
    return packed


@pytest.mark.parametrize("n", [64, 5_000, 24_000])
@pytest.mark.parametrize("wrap", [0, 3])
def test_a_map_of_arrays_that_collide_as_keys_is_refused(n: int, wrap: int) -> None:
    body = b"\x91" * wrap + map_of([(pair, None) for pair in colliding_tuples(n)])
    for each in (body, memoryview(body)):
        with pytest.raises(ValueError, match="a key of a map is an array or a map"):
            check_body(each)
    check_body(body, any_keys=True)


@pytest.mark.parametrize("key", [[], [1], {}, {"a": 1}])
@pytest.mark.parametrize("size", [0, 200_000])
def test_one_array_or_map_among_many_keys_is_refused(key: Any, size: int) -> None:
    pairs: list[tuple[Any, Any]] = [(f"key {n}", n) for n in range(100)]
    check_body(map_of([*pairs, ("noise", b"\xde\xdf" * size)]))
    for place in (0, 50, 99):
        bad = [*pairs, ("noise", b"\xde\xdf" * size)]
        bad[place] = (key, 1)
        with pytest.raises(ValueError, match="a key of a map"):
            check_body(map_of(bad))


@pytest.mark.parametrize("header", [b"\xde\x00\x40", b"\xde\x01\x00", b"\xde\x0a\x40"])
def test_keys_of_maps_of_any_form_are_checked(header: bytes) -> None:
    n = int.from_bytes(header[1:], "big")
    for tail in (b"", b"\x00" * (MAX_ELEMENTS + 1)):
        text = tail and b"\xc6" + len(tail).to_bytes(4, "big") + tail
        body = b"\x92" + header + b"".join(packb([k]) + b"\xc0" for k in range(n))
        with pytest.raises(ValueError, match="a key of a map"):
            check_body(body + (text or b"\xc0"))


@pytest.mark.parametrize("key", [lambda n: Timestamp(n, n), lambda n: ExtType(1, b"%d" % n)])
@pytest.mark.parametrize("noise", [b"", b"\0" * 120_000])
def test_a_map_has_at_most_4096_keys_that_are_times_or_extensions(key: Any, noise: bytes) -> None:
    pairs = [(key(n + 1), None) for n in range(4096)]
    more = [*((f"key {n}", n) for n in range(500)), *((n, n) for n in range(500))]
    check_body(map_of([*pairs, *more, ("noise", noise)]))
    bad = map_of([*pairs, *more, (key(4097), None), ("noise", noise)])
    with pytest.raises(ValueError, match="a map has 4097 keys that are times or extensions"):
        check_body(bad)
    check_body(bad, any_keys=True)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything seem to take long, as on a machine that is slow."""
    steps = (step**3 for step in itertools.count())
    monkeypatch.setattr("rap.collisions.thread_time", steps.__next__)


@pytest.mark.parametrize("noise", [b"", b"\0" * 120_000])
def test_numbers_that_collide_as_keys_are_refused(
    noise: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = (1.1**step for step in itertools.count())
    monkeypatch.setattr("rap.collisions.thread_time", now.__next__)
    bad = map_of([("noise", noise), *((n, None) for n in colliding_integers(13))])
    for body in (bad, b"\x91" + bad, memoryview(bad)):
        with pytest.raises(ValueError, match="5461 keys of a map have hashes that collide"):
            check_body(body)
        with pytest.raises(ValueError, match="5461 keys of a map have hashes that collide"):
            check_keys(body)
    check_body(bad, any_keys=True)


@pytest.mark.parametrize(
    "key",
    [
        int,
        float,
        lambda n: -n,
        lambda n: n / 7,
        lambda n: n << 22,  # as Snowflake ids
        lambda n: 1_700_000_000_000 + 50 * n,
    ],
)
@pytest.mark.parametrize("noise", [b"", b"\0" * 120_000])
def test_other_numbers_may_be_keys_even_if_the_machine_is_slow(
    slow: None, key: Any, noise: bytes
) -> None:
    body = map_of([("noise", noise), *((key(n), None) for n in range(20_000))])
    check_body(body)
    check_keys(body)


def test_tuples_that_collide_are_refused_as_keys_and_items_that_are_declared(slow: None) -> None:
    pairs = colliding_tuples(200)
    check_keys(map_of([(pair, None) for pair in pairs[:63]]))
    with pytest.raises(ValueError, match="200 keys of a map have hashes that collide"):
        check_keys(map_of([([1, pair], None) for pair in pairs]))
    body = packb({"rows": [pairs]})
    check_keys(body)
    check_keys(body, arrays=True)
    with pytest.raises(ValueError, match="200 items of a set have hashes that collide"):
        check_keys(body, arrays=True, as_tuples=True)
    check_keys(packb([(n, n) for n in range(20_000)]), arrays=True, as_tuples=True)
    check_keys(packb([7] * 20_000), arrays=True)


def test_what_is_read_as_another_type_collides_as_that_type(slow: None) -> None:
    read = msgspec.msgpack.Decoder(list[uuid.UUID]).decode
    texts = [str(each) for each in colliding_uuids(200)]
    for bad in (texts, [*texts, "no UUID"], [*texts, "\udcff"], [*texts, 5]):
        with pytest.raises(ValueError, match="keys of a map have hashes that collide"):
            check_keys(map_of([(text, None) for text in bad]), readers=[read])
    for good in (["no UUID", *texts], [str(uuid.uuid4()) for _ in range(200)]):
        check_keys(map_of([(text, None) for text in good]), readers=[read])


def test_extensions_of_any_type_do_not_hide_keys() -> None:
    arrays = map_of([([n], None) for n in range(64)])
    for code in range(256):
        extension = b"\xd6" + bytes([code]) + b"\0\0\0\1"
        with pytest.raises(ValueError, match="a key of a map"):
            check_body(b"\x92" + extension + arrays)


def test_text_that_is_not_utf_8_does_not_hide_keys() -> None:
    with pytest.raises(ValueError, match="a key of a map"):
        check_body(b"\x92\xa2\xff\xfe" + map_of([([n], None) for n in range(64)]))


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (None, 1),
        ([1, 2, True, None, -5], 6 + 72),
        (["a"] * 1000, 3 + 2000 + 1001 * 72),
        ([{}] * 1000, 3 + 1000 + 1001 * 72),
        ([[]] * 50_000, 3 + 50_000 + 50_001 * 72),
        ([b"\xc0" * 60_000], 4 + 60_000 + 2 * 72),
        (["\u6771" * 60_000, {"a": b"\x80" * 60_000}], 1 + 180_005 + 3 + 60_003 + 4 * 72 + 240),
        ([{"a": 1}] * 1000, 3 + 4000 + 1000 * (72 + 240) + 72),
        ([1.5] * 1000, 3 + 9000 + 1001 * 72),
    ],
    ids=[
        "nil",
        "small",
        "texts",
        "maps",
        "arrays",
        "bytes",
        "long text and bytes",
        "filled maps",
        "floats",
    ],
)
def test_the_size_of_a_decoded_body_is_estimated(value: Any, size: int) -> None:
    assert decoded_size(pack(value)) == size
    assert decoded_size(memoryview(pack(value))) == size


@given(st.binary(max_size=2000))
def test_any_bytes_have_an_estimate_of_their_decoded_size(data: bytes) -> None:
    assert len(data) <= decoded_size(data) <= 241 * len(data)


def test_a_header_has_at_most_a_thousand_elements() -> None:
    unpack_header(pack({"x": [1] * 998}))
    with pytest.raises(ValueError, match="too many elements: 1001 or more, the limit is 1000"):
        unpack_header(pack({"x": [1] * 999}))
