"""Which version of the protocol two sides use: the highest that both speak, or none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.errors import Code, RapError, VersionMismatch
from rap.wire.codec import unpack
from rap.wire.frames import GOAWAY, HELLO, parse_frames
from rap.wire.hello import VERSIONS, Versions
from rap.wire.protocol import WireProtocol

RANGES = st.tuples(st.integers(1, 8), st.integers(1, 8)).map(lambda it: Versions(min(it), max(it)))


def side(versions: Versions, is_server: bool) -> WireProtocol[Any]:
    return WireProtocol(is_server=is_server, new_stream=lambda *_: None, versions=versions)


def sent_by(protocol: WireProtocol[Any]) -> bytes:
    data = b"".join(bytes(each) for each in protocol.out)
    protocol.out.clear()
    return data


def meet(client: WireProtocol[Any], server: WireProtocol[Any]) -> list[Any]:
    """Let both sides read the other's Hello; return the GoAways that follow, as decoded bodies."""
    of_client, of_server = sent_by(client), sent_by(server)
    server.receive_data(of_client)
    client.receive_data(of_server)
    frames = [*parse_frames(sent_by(client)), *parse_frames(sent_by(server))]
    return [unpack(frame.body) for frame in frames if frame.kind == GOAWAY]


@given(RANGES, RANGES)
def test_both_sides_use_the_highest_version_that_both_speak_or_part(
    ours: Versions, theirs: Versions
) -> None:
    client, server = side(ours, False), side(theirs, True)
    goaways = meet(client, server)
    spoken = set(range(ours.low, ours.high + 1)) & set(range(theirs.low, theirs.high + 1))
    if spoken:
        assert client.version == server.version == max(spoken)
        assert client.error is None
        assert server.error is None
        assert goaways == []
        return
    older = "client" if ours.high < theirs.low else "server"
    text = (
        f"no version of the wire protocol in common: the client speaks {ours}, the server {theirs};"
        f" upgrade rap on the {older}"
    )
    for error in (client.error, server.error):
        assert isinstance(error, VersionMismatch)
        assert (str(error), error.unserved) == (text, True)
    assert goaways == [[int(Code.FAILED_PRECONDITION), text]] * 2
    assert client.version == server.version == 0


@given(RANGES)
def test_a_peer_that_knows_one_version_reads_the_lowest_of_ours(ours: Versions) -> None:
    (hello,) = parse_frames(sent_by(side(ours, False)))
    assert hello.kind == HELLO
    content: Any = unpack(hello.body)
    assert content["rap"] == ours.low
    assert content.get("rap_max", ours.low) == ours.high
    assert Versions.of_hello(content) == ours
    assert Versions.of_hello({"rap": ours.low}) == Versions(ours.low, ours.low)


@given(RANGES)
def test_versions_are_read_as_they_are_written(ours: Versions) -> None:
    assert Versions.parse(str(ours)) == ours


@pytest.mark.parametrize("text", ["", "-", "1-", "-2", "x", "1-x", "1.0", "0x1"])
def test_a_text_that_is_no_range_of_versions_is_none(text: str) -> None:
    assert Versions.parse(text) is None


def test_this_release_speaks_version_1() -> None:
    assert Versions(1, 1) == VERSIONS
    assert VERSIONS.to_hello() == {"rap": 1}


def test_a_later_version_may_allow_other_limits() -> None:
    server = side(Versions(1, 1), True)
    later = WireProtocol[Any](
        is_server=False,
        new_stream=lambda *_: None,
        hello={"max_frame": "none", "max_streams": -1},
        versions=Versions(2, 2),
    )
    server.receive_data(sent_by(later))
    error: RapError | None = server.error
    assert isinstance(error, VersionMismatch)


@pytest.mark.parametrize("text", ["9" * 5000, "1-" + "9" * 5000, "1" * 33])
def test_a_text_too_long_for_versions_is_none(text: str) -> None:
    assert Versions.parse(text) is None
