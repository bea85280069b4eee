"""The error of a call whose server is silent tells to look at the server, not to wait longer."""

import re

import pytest

from rap.errors import DeadlineExceeded
from rap.server import Server
from rap.testing import Fleet
from tests.loopback import within


def make() -> Server:
    server = Server("127.0.0.1:0", service="shop")

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    return server


async def test_a_call_to_a_silent_server_tells_to_look_at_it() -> None:
    async with Fleet(make(), 1) as fleet:
        await fleet.client.raw_call("add", 1, 2)
        fleet["a"].freeze()
        with pytest.raises(DeadlineExceeded) as caught:
            await within(fleet.client.raw_call("add", 1, 2, timeout=2.0))
    end = r"\(it has sent nothing for [\d.]+ s\); it may be frozen, blocked or cut off: look at that"
    assert re.search(f"within 2 s {end} process$", str(caught.value).partition("\n")[0])
