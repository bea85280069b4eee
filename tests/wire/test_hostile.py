"""No input raises, hangs or takes more than its share: any bytes, in any cut."""

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from rap.errors import Code
from rap.wire.codec import pack
from rap.wire.frames import HEADER, OPEN, PING, RESET, Frame
from rap.wire.hello import Limits
from tests.wire.endpoints import KIB, META, SMALL, Endpoint, data, hello, make, open_frame

BODIES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([META, b"\0\0\0\1", b"12345678", pack([1, "m", {}]), b"x" * 5000]),
)
FRAMES = st.builds(
    Frame,
    st.one_of(st.integers(0, 8), st.integers(0, 255)),
    st.one_of(st.integers(0, 15), st.integers(0, 255)),
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.sampled_from([b"", b"m", META]),
    BODIES,
)
# Half of the streams a test opens are there, so that frames find them.
OPENS = [open_frame(1), open_frame(3, 0, b""), open_frame(5, 3, b"part")]


def endpoint_of(is_server: bool) -> Endpoint:
    endpoint = make(is_server=is_server, limits=SMALL)
    if is_server:
        endpoint.receive(*OPENS)
    else:
        for flags in (5, 0, 5):
            endpoint.open(flags)
    endpoint.take_bytes()
    return endpoint


def act(endpoint: Endpoint) -> None:
    """Do what a transport and user code might do with what has come."""
    protocol = endpoint.protocol
    for kind, stream, _, _, _, held in endpoint.events:
        if stream is not None and kind != RESET:
            protocol.acknowledge(stream, held)
            if not stream.state & 21:
                protocol.send_data(stream, 5, b"", b"answer")
    endpoint.events.clear()
    protocol.send_pending(1 << 20)
    endpoint.take_bytes()


@given(st.booleans(), st.lists(st.binary(max_size=60), max_size=8))
@example(True, [b"\0" * 12])
def test_random_bytes_never_raise(is_server: bool, chunks: Sequence[bytes]) -> None:
    for endpoint in (Endpoint(is_server=is_server), endpoint_of(is_server)):
        for chunk in chunks:
            endpoint.feed(chunk)
            act(endpoint)


@given(st.booleans(), st.lists(FRAMES, max_size=30))
def test_random_frames_never_raise_and_after_a_violation_nothing_happens(
    is_server: bool, frames: Sequence[Frame]
) -> None:
    endpoint = endpoint_of(is_server)
    for frame in frames:
        broken = endpoint.protocol.error is not None
        events = endpoint.receive(frame)
        written = len(endpoint.take_bytes())
        if broken:
            assert events == []
            assert written == 0
        assert endpoint.protocol.recv_window + endpoint.protocol.consumed <= 128 * KIB
        act(endpoint)


@given(st.lists(FRAMES, max_size=8), st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_never_raises(frames: Sequence[Frame], at: int, mask: int) -> None:
    raw = bytearray(b"".join(frame.encode() for frame in [*OPENS, *frames]))
    raw[at % len(raw)] ^= mask
    endpoint = make(is_server=True, limits=SMALL)
    endpoint.feed(bytes(raw))
    act(endpoint)


@given(st.booleans(), st.lists(FRAMES, max_size=8), st.data())
def test_the_same_bytes_mean_the_same_however_they_are_cut(
    is_server: bool, frames: Sequence[Frame], draw: st.DataObject
) -> None:
    raw = b"".join(frame.encode() for frame in frames)
    cuts = draw.draw(st.lists(st.integers(0, len(raw)), max_size=10).map(sorted))
    whole, cut = endpoint_of(is_server), endpoint_of(is_server)
    whole.feed(raw)
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        cut.feed(raw[start:stop])

    def told(endpoint: Endpoint) -> list[object]:
        return [
            (kind, stream and stream.id, flags, meta, bytes(body), held)
            for kind, stream, flags, meta, body, held in endpoint.events
        ]

    assert told(whole) == told(cut)
    assert str(whole.protocol.error) == str(cut.protocol.error)


def test_single_bytes_give_the_same_events_as_one_chunk() -> None:
    endpoint = Endpoint(is_server=True)
    for frame in (hello(), open_frame(1, 5, b"x" * 100), open_frame(3)):
        for byte in frame.encode():
            endpoint.feed(bytes([byte]))
    assert [event[0] for event in endpoint.events] == [6, OPEN, OPEN]
    assert endpoint.protocol.partial is None


def test_a_hello_that_is_a_bomb_is_refused_and_the_answer_is_short() -> None:
    for body in (b"\x91" * 100_000, pack({"rap": "x" * 500_000}), b"\xdf\xff\xff\xff\xff"):
        endpoint = Endpoint(is_server=True)
        endpoint.take_bytes()
        endpoint.receive(Frame(6, 0, 0, b"", body))
        assert endpoint.violation()
        assert len(endpoint.take_bytes()) < 5000


def test_opens_that_are_cancelled_at_once_leave_nothing_behind() -> None:
    endpoint = make(is_server=True)
    cancel = pack([Code.CANCELLED, "", {}])
    for n in range(1, 2001, 2):
        endpoint.receive(open_frame(n, 0, b"x" * 1000), Frame(RESET, 0, n, b"", cancel))
        endpoint.receive(data(n, b"late" * 100))
    assert not endpoint.protocol.streams
    window = Limits().connection_window
    assert endpoint.protocol.recv_window + endpoint.protocol.consumed == window


def test_a_frame_that_never_ends_is_kept_once() -> None:
    endpoint = make(is_server=True)
    endpoint.feed(HEADER.pack(2**20, OPEN, 5, 1, 0))
    partial = endpoint.protocol.partial
    for _ in range(1000):
        assert endpoint.feed(b"x" * 100) == []
    assert endpoint.protocol.partial is partial
    assert len(partial or b"") == 12 + 100_000


def test_bytes_after_a_violation_are_not_kept() -> None:
    endpoint = make(is_server=True)
    endpoint.receive(Frame(PING, 0, 0, b"", b"short"))
    endpoint.feed(b"\0" * 5)
    assert endpoint.protocol.partial is None
