"""A WebSocket bridged to a channel: messages that arrive on one leave on the other."""

import asyncio
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from rap.call import FORWARDED
from rap.channel import Channel
from rap.client import Client
from rap.client.channel_call import ChannelCall
from rap.errors import CallError, ChannelClosed
from rap.gateway.arrivals import Arrivals
from rap.gateway.config import GatewayConfig
from rap.gateway.errors import BadRequest
from rap.gateway.large_json import LargeJson
from rap.gateway.request import Parser
from rap.gateway.response import any_json, result_object, to_json
from rap.tasks import start_task

__all__ = ["bridge", "close_code", "text_of"]

# Close codes of RFC 6455, section 7.4.1, by HTTP status.
_CLOSE_CODES = {413: 1009, 415: 1003}
_POLICY, _SERVER_ERROR = 1008, 1011


async def bridge(
    client: Client,
    opened: ChannelCall,
    socket: WebSocket,
    arrivals: Arrivals,
    config: GatewayConfig,
    parser: Parser,
    *,
    as_json: bool,
) -> None:
    """Open a channel, confirm it, and carry messages both ways until either side has left.

    The value of the function, unless it is `None`, is sent as the last message. If the client has
    disconnected, the function has `close_grace` to take the messages before that and to end.

    Args:
        client: The client that makes the call.
        opened: The call of the function.
        socket: An accepted WebSocket.
        arrivals: Its messages after the first.
        config: Options of the gateway.
        parser: Parses the messages.
        as_json: Whether they are JSON in both directions; otherwise they are text.

    Raises:
        ClientDisconnect: The client has disconnected.
        CallError: The channel could not be opened, or its function raised.
        BadRequest: The WebSocket sent a message that cannot be carried.
    """
    with arrivals.bound(config.close_grace):
        async with opened as channel:
            with arrivals.bound():
                await _wait_accepted(client, channel)
                await socket.send_text(to_json(result_object("accept")))
            await _carry(channel, socket, arrivals, config.max_body, parser, as_json)


async def _carry(
    channel: Channel,
    socket: WebSocket,
    arrivals: Arrivals,
    max_body: int,
    parser: Parser,
    as_json: bool,
) -> None:
    """Carry messages both ways until either side has left, then the value of the function."""
    down = start_task(_send_down(channel, socket, parser.large, as_json))
    up = start_task(_send_up(channel, arrivals, max_body, parser if as_json else None))
    try:
        await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
        if up.done() and not up.result():
            await asyncio.wait((down,))
    finally:
        for task in (down, up):
            task.cancel()
        await asyncio.wait((down, up))
    for task in (down, up):
        if not task.cancelled():
            task.result()
    if not down.cancelled():
        result = await channel.result()
        if result is not None:
            await socket.send_text(await any_json(result_object(result), parser.large))


def text_of(message: Any, max_body: int) -> str | None:
    """Return the text of a message of a WebSocket; `None` for an empty binary one.

    Raises:
        BadRequest: The message is not text, or is longer than `max_body` bytes.
        WebSocketDisconnect: The client has disconnected.
    """
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
    text: str | None = message.get("text")
    if text is None:
        if message.get("bytes"):
            raise BadRequest(415, "a message must be text")
        return None
    if len(text.encode()) > max_body:
        raise BadRequest(413, f"a message has more than {max_body} bytes, which is max_body")
    return text


def close_code(status: int) -> int:
    """Return the code that closes a WebSocket after an error with an HTTP status."""
    return _CLOSE_CODES.get(status, _SERVER_ERROR if status >= 500 else _POLICY)


async def _wait_accepted(client: Client, channel: Channel) -> None:
    """Return when the server has accepted the channel.

    The protocol has no response for that. But a server handles the frames of a connection in
    order, so when it has answered a later call, it has accepted or refused the channel. The call
    used here is cheap, and it is answered even though the function is hidden from other machines.

    Raises:
        CallError: The server has refused the channel.
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


async def _send_down(channel: Channel, socket: WebSocket, large: LargeJson, as_json: bool) -> None:
    """Send the messages of the function as JSON, or strings unchanged and other values as JSON."""
    async for body in channel.iter_body():
        is_text = isinstance(body, str) and not as_json
        await socket.send_text(body if is_text else await any_json(body, large))


async def _send_up(
    channel: Channel, arrivals: Arrivals, max_body: int, parser: Parser | None
) -> bool:
    """Write the messages of the WebSocket to the channel; return whether the client has left.

    An empty binary message ends the messages: a WebSocket has no half-close. It returns `False` if
    the function reads no more messages.
    """
    is_ended = False
    try:
        while True:
            text = text_of(await arrivals.message(), max_body)
            if is_ended:
                raise BadRequest(400, "a message follows the end of the messages")
            if text is None:
                is_ended = True
                await channel.end()
            elif parser is None:
                await channel.write(text)
            else:
                await channel.write(await parser.parse_json(text, "the message"))
    except WebSocketDisconnect:
        return True
    except ChannelClosed:
        return False
