"""The fuzzers run: what they begin with is well formed, and what breaks is found."""

import logging
import random
from collections.abc import Iterator

import pytest
from hypothesis import Phase

from fuzz.conversation import converse
from fuzz.corpus import SEEDS
from fuzz.mutate import Mutator
from fuzz.targets import ClientTarget, Finding, ProtocolTarget, ServerTarget
from rap.wire.frames import parse_frames
from rap.wire.hello import DEFAULT_LIMITS, hello_frame
from rap.wire.protocol import WireProtocol
from rap.wire.stream import StreamState


@pytest.fixture(scope="module")
def server() -> Iterator[ServerTarget]:
    target = ServerTarget()
    yield target
    target.close()


@pytest.fixture(scope="module")
def client() -> Iterator[ClientTarget]:
    target = ClientTarget()
    yield target
    target.close()


@pytest.mark.parametrize("seed", SEEDS, ids=range(len(SEEDS)))
def test_a_seed_is_whole_frames_and_harms_nothing(
    seed: bytes, server: ServerTarget, client: ClientTarget
) -> None:
    assert b"".join(frame.encode() for frame in parse_frames(seed[2:])) == seed[2:]
    ProtocolTarget().run(seed)
    server.run(seed)
    client.run(seed)


def test_mutations_harm_nothing_and_are_the_same_every_time(
    server: ServerTarget, client: ClientTarget
) -> None:
    one, other = (Mutator(SEEDS, random.Random(7)) for _ in range(2))
    protocol = ProtocolTarget()
    for _ in range(300):
        data = one.next()
        assert data == other.next()
        protocol.run(data)
        server.run(data)
        client.run(data)


def test_a_peer_of_another_version_is_no_finding(server: ServerTarget) -> None:
    server.run(
        bytes(2) + hello_frame({"rap": 47, **DEFAULT_LIMITS.to_hello(), "random": bytes(16)})
    )


def test_an_error_that_the_server_logs_is_a_finding(server: ServerTarget) -> None:
    logging.getLogger("rap.server").error("a lost promise")
    with pytest.raises(Finding, match="a lost promise"):
        server.run(SEEDS[0])


def test_what_a_loop_is_told_of_is_a_finding(server: ServerTarget) -> None:
    server._loop.call_soon(lambda: 1 / 0)
    with pytest.raises(Finding, match="ZeroDivisionError"):
        server.run(SEEDS[0])
    server.run(SEEDS[0])


def test_a_conversation_that_loses_credit_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(protocol: WireProtocol[StreamState], stream: StreamState, size: int) -> None:
        stream.held -= size

    assert not converse(0.01).finding
    monkeypatch.setattr(WireProtocol, "acknowledge", lose)
    monkeypatch.setattr("fuzz.conversation._PHASES", (Phase.generate,))  # the shortest takes long
    outcome = converse(60.0)
    assert outcome.executions
    assert "AssertionError" in outcome.finding
