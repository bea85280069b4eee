"""A minimal HTTP client."""

import asyncio

from rap.address import Address

__all__ = ["get", "send"]


async def send(address: Address, data: bytes) -> str:
    """Return everything that comes back for some bytes."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(data)
        return (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()


async def get(address: Address, path: str, accept: str = "*/*") -> tuple[int, str]:
    """Return status and body of a page."""
    head = f"GET {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\n\r\n"
    answer = await send(address, head.encode())
    status, _, body = answer.partition("\r\n\r\n")
    return int(status.split()[1]), body
