"""What a peer that nobody has admitted can hold, and for how long."""

import asyncio
from contextlib import suppress

import pytest

from rap.wire.hello import hello_frame
from tests.loopback import eventually, serving, within

HELLO = hello_frame({"rap": 1, "token": "x" * 15_000})


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HELLO[:7], id="half a header"),
        pytest.param(HELLO[:-1], id="half a Hello"),
        pytest.param(HELLO, id="a token that is being verified"),
        pytest.param(HELLO + b"\0" * 1_000_000, id="a token and much more"),
    ],
)
async def test_no_state_before_the_verdict_outlasts_the_handshake_timeout(said: bytes) -> None:
    async def verify(token: str) -> None:
        await asyncio.Event().wait()

    async def hold() -> None:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(said)
        with suppress(ConnectionError):
            await reader.read()
        writer.transport.abort()

    async with serving(verify_token=verify, handshake_timeout=0.4) as server:
        address = server.addresses[0]
        await within(asyncio.gather(*(hold() for _ in range(30))))
        await eventually(lambda: not server.connection_manager.connections)
