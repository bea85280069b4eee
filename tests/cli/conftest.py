"""Fixtures of the tests of the command line."""

from typing import Any

import pytest

from rap.address import Peer
from tests.redis_fixtures import namespace, redis_single

__all__ = ["namespace", "redis_single", "remote_peers"]


@pytest.fixture
def remote_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every client look as if it were on another machine."""
    make = Peer.from_sockname

    def elsewhere(name: object, identity: Any = None) -> Peer:
        peer = make(name, identity)
        return Peer(peer.host, peer.port, False, identity)

    monkeypatch.setattr(Peer, "from_sockname", elsewhere)
