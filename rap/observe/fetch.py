"""Asks a page of another process of this machine."""

import asyncio

from rap.address import Address

__all__ = ["fetch"]


async def fetch(address: Address, path: str, accept: str, timeout: float) -> tuple[bool, str]:
    """Return whether a page answered with 200, and its text.

    Raises:
        OSError: Nobody listens there, or who did has left.
        TimeoutError: It did not answer in so many seconds.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            head = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n"
            writer.write(head.encode("latin-1"))
            answer = await reader.read()
        finally:
            writer.transport.abort()
    head, end, body = answer.decode().partition("\r\n\r\n")
    if not end:
        raise ConnectionResetError(f"{address} left without an answer")
    return head.split(" ")[1] == "200", body
