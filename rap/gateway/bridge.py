"""One WebSocket and one channel: what comes on one goes out on the other."""

import asyncio
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from rap.call import FORWARDED
from rap.channel import Channel
from rap.client import Client
from rap.errors import CallError, ChannelClosed
from rap.gateway.reply import BadRequest, success_of, to_json
from rap.gateway.request import Target, header_of

__all__ = ["bridge", "close_code", "receive_text"]

# Close codes of RFC 6455, section 7.4.1, for statuses of HTTP.
_CLOSE_CODES = {413: 1009, 415: 1003}
_POLICY, _SERVER_ERROR = 1008, 1011


async def bridge(client: Client, target: Target, socket: WebSocket, max_body: int) -> None:
    """Open a channel, say so, and carry text both ways until either side has left.

    Args:
        client: Makes the call.
        target: The function.
        socket: Accepted, its first message taken.
        max_body: Bytes of one message at the most.

    Raises:
        CallError: The channel could not be opened, or its function raised.
        BadRequest: The WebSocket said something that cannot be carried.
    """

    async def talk(channel: Channel) -> None:
        await _settled(client, channel)
        await socket.send_text(to_json(success_of("accept")))
        down = asyncio.create_task(_down(channel, socket))
        up = asyncio.create_task(_up(channel, socket, max_body))
        try:
            await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (down, up):
                task.cancel()
            await asyncio.wait((down, up))
        for task in (down, up):
            if not task.cancelled():
                task.result()

    stub: Any = client.register(target.name, target.group)(talk)
    await stub(header=header_of(socket))


async def receive_text(socket: WebSocket, max_body: int) -> str:
    """Return the next message of a WebSocket.

    Raises:
        BadRequest: It is no text, or has more than `max_body` bytes.
        WebSocketDisconnect: There is none, the client has left.
    """
    try:
        text = await socket.receive_text()
    except KeyError:
        raise BadRequest(415, "a message must be text") from None
    if len(text.encode()) > max_body:
        raise BadRequest(413, f"a message has more than {max_body} bytes, which is max_body")
    return text


def close_code(status: int) -> int:
    """Return the code with which a WebSocket is closed after an error."""
    return _CLOSE_CODES.get(status, _SERVER_ERROR if status >= 500 else _POLICY)


async def _settled(client: Client, channel: Channel) -> None:
    """Return when the server has taken the channel.

    No answer says so. But what is sent after it on the same connection is answered after it; a
    call of a function that nobody from elsewhere may call always is, and costs next to nothing.

    Raises:
        CallError: The server has refused it.
    """
    try:
        await client.raw_call("list", group="registry", header={FORWARDED: ""})
    except CallError as error:
        if channel.is_close:
            try:
                await channel.read()
            except ChannelClosed:
                return  # its function has returned already
        if not error.remote:
            raise


async def _down(channel: Channel, socket: WebSocket) -> None:
    """Carry what the server writes; strings as they are, anything else as JSON."""
    async for body in channel.iter_body():
        await socket.send_text(body if isinstance(body, str) else to_json(body))


async def _up(channel: Channel, socket: WebSocket, max_body: int) -> None:
    """Carry what the WebSocket says until it is closed."""
    try:
        while True:
            await channel.write(await receive_text(socket, max_body))
    except (WebSocketDisconnect, ChannelClosed):
        return
