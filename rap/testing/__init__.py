"""Tests of services: clients, servers and whole fleets inside the process, without a socket.

`TestClient` connects a real client to a real server, `Fleet` runs several replicas that tests kill,
freeze and delay. `fake` answers the calls of a client without its server. A `FakeClock` is moved by
hand. `handler_call` sets `rap.context` in a unit test of a handler, and `check_compatible` compares
a server with an earlier description of it. `rap.testing.plugin` has the fixtures for pytest.
"""

from typing import TYPE_CHECKING

from rap._lazy import Lazy, loader

if TYPE_CHECKING:
    from rap.testing.client import TestClient
    from rap.testing.clock import FakeClock
    from rap.testing.contracts import check_compatible
    from rap.testing.fakes import Fakes, fake
    from rap.testing.fleet import Fleet, Replica
    from rap.testing.handlers import HandlerCall, handler_call

__all__ = [
    "FakeClock",
    "Fakes",
    "Fleet",
    "HandlerCall",
    "Replica",
    "TestClient",
    "check_compatible",
    "fake",
    "handler_call",
]

__getattr__ = loader(
    __name__,
    {
        "FakeClock": Lazy("rap.testing.clock", "FakeClock"),
        "Fakes": Lazy("rap.testing.fakes", "Fakes"),
        "Fleet": Lazy("rap.testing.fleet", "Fleet"),
        "HandlerCall": Lazy("rap.testing.handlers", "HandlerCall"),
        "Replica": Lazy("rap.testing.fleet", "Replica"),
        "TestClient": Lazy("rap.testing.client", "TestClient"),
        "check_compatible": Lazy("rap.testing.contracts", "check_compatible"),
        "fake": Lazy("rap.testing.fakes", "fake"),
        "handler_call": Lazy("rap.testing.handlers", "handler_call"),
    },
)
