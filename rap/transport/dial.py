"""Open a connection to one address."""

import asyncio
import ssl
from collections.abc import Callable

from rap.address import Address
from rap.errors import ConnectionClosed, Unavailable
from rap.transport.connection import Connection
from rap.transport.tls import is_pinned

__all__ = ["dial"]


async def dial(
    address: Address,
    make: Callable[[], Connection],
    *,
    timeout: float,
    context: ssl.SSLContext | None = None,
    pinned: bytes | None = None,
) -> Connection:
    """Return a connection whose peer has said Hello.

    Args:
        address: Where to; a name is tried with every address it resolves to.
        make: Makes the connection's driver.
        timeout: Seconds for name, connection, TLS and Hello together.
        context: TLS context; `None` for plain TCP.
        pinned: The one certificate the peer must present, in binary form.

    Raises:
        Unavailable: It could not be reached; the message names the address and why.
    """
    conn: Connection | None = None
    try:
        async with asyncio.timeout(timeout):
            conn = await _connect(address, make, timeout, context)
            if pinned is not None and not is_pinned(
                conn.transport.get_extra_info("ssl_object"), pinned
            ):
                raise ssl.SSLCertVerificationError("its certificate is not the pinned one")
            await conn.shaken()
            return conn
    except (OSError, ssl.SSLError, TimeoutError) as exc:
        reason = f"no answer in {timeout} s" if isinstance(exc, TimeoutError) else str(exc)
        error = Unavailable(f"cannot reach {address}: {reason}", unserved=True)
        raise error from exc
    finally:
        if conn is not None and (conn.closed or not conn.handshake.done()):
            conn.abort(ConnectionClosed(f"the handshake with {address} failed"))


async def _connect(
    address: Address, make: Callable[[], Connection], timeout: float, context: ssl.SSLContext | None
) -> Connection:
    loop = asyncio.get_running_loop()
    if address.scheme == "unix":
        name = "localhost" if context is not None else None
        _, conn = await loop.create_unix_connection(
            make, address.path, ssl=context, server_hostname=name
        )
    elif context is None:
        _, conn = await loop.create_connection(make, address.host, address.port)
    else:
        _, conn = await loop.create_connection(
            make,
            address.host,
            address.port,
            ssl=context,
            server_hostname=address.host,
            ssl_handshake_timeout=timeout,
        )
    return conn
