"""The processors of both ends without a network between them, so that a test can be one."""

import copy
import secrets
from typing import Any

from rap.address import Peer
from rap.call import Call, Header, Request, Response, Side, StreamType
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto

__all__ = ["Ends", "Sealed"]

# Header and body as they are on the wire.
Sealed = tuple[Header, Any]


class Ends:
    """One connection between a client and a server that encrypt.

    Args:
        client: Its processor.
        server: Its processor.
        binding: Of the connection; that of another one by default.
    """

    def __init__(
        self,
        client: ClientCrypto | None = None,
        server: ServerCrypto | None = None,
        binding: bytes | None = None,
    ) -> None:
        binding = secrets.token_bytes(32) if binding is None else binding
        self.client = client or ClientCrypto(KEY_ID, KEY)
        self.server = server or ServerCrypto({KEY_ID: KEY})
        self.here = Peer(binding=binding)
        self.there = Peer(binding=binding)

    def call(self, method: str = "/default/f") -> Call:
        """Return a call as the client has it."""
        return Call(method, StreamType.CHANNEL, Side.CLIENT, {}, peer=self.here)

    def arriving(self, sealed: Sealed, method: str = "/default/f") -> Call:
        """Return the call as the server has it when its Open comes."""
        header = copy.deepcopy(sealed[0])
        return Call(method, StreamType.CHANNEL, Side.SERVER, header, peer=self.there)

    async def ask(self, call: Call, body: Any, **header: Any) -> Sealed:
        """Return what the client sends."""
        request = await self.client.process_request(Request(call, body, dict(header)))
        return request.header, request.body

    async def hear(self, call: Call, sealed: Sealed) -> Any:
        """Return what the server makes of it."""
        header, body = copy.deepcopy(sealed)
        return (await self.server.process_request(Request(call, body, header))).body

    async def answer(self, call: Call, body: Any, **header: Any) -> Sealed:
        """Return what the server sends."""
        response = await self.server.process_response(Response(call, body, dict(header)))
        return response.header, response.body

    async def read(self, call: Call, sealed: Sealed) -> Any:
        """Return what the client makes of it."""
        header, body = copy.deepcopy(sealed)
        return (await self.client.process_response(Response(call, body, header))).body

    async def opened(self, body: Any = None) -> tuple[Call, Call]:
        """Return a call as both have it once the server has taken its Open."""
        call = self.call()
        sealed = await self.ask(call, body)
        arrived = self.arriving(sealed)
        assert await self.hear(arrived, sealed) == body
        return call, arrived
