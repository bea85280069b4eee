"""Open a connection to one address."""

import asyncio
import ssl
from collections.abc import Callable

from rap.address import Address
from rap.errors import ConnectionClosed, RapError, Unauthenticated, Unavailable
from rap.transport.connection import Connection
from rap.transport.tls import is_pinned

__all__ = ["dial"]

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
# X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT and others: no known authority has issued it.
_UNKNOWN_ISSUER = range(18, 22)
_TLS_SHUTDOWN_TIMEOUT = 1.0  # seconds for the close_notify of the peer; nothing depends on it


async def dial(
    address: Address,
    make: Callable[[], Connection],
    *,
    timeout: float,
    context: ssl.SSLContext | None = None,
    pinned: bytes | None = None,
) -> Connection:
    """Return a connection to a server that has sent its Hello and takes calls.

    Args:
        address: Address of the server; every address that a host name resolves to is tried.
        make: Makes the connection.
        timeout: Seconds for name resolution, connection, TLS and Hello together.
        context: TLS context; `None` for plain TCP.
        pinned: The only certificate that the server may present, in DER form.

    Raises:
        Unavailable: The server could not be reached; the message has the address and the reason.
        Unauthenticated: The server refused the identity of this client.
    """
    made: list[Connection] = []
    is_ready = False

    def make_one() -> Connection:
        made.append(make())
        return made[-1]

    try:
        async with asyncio.timeout(timeout):
            conn = await _connect(address, make_one, timeout, context)
            if pinned is not None and not is_pinned(
                conn.transport.get_extra_info("ssl_object"), pinned
            ):
                raise ConnectionClosed("its certificate is not the pinned one")
            await conn.wait_handshake()
            if conn.draining:
                raise conn.error or ConnectionClosed("it is draining, and takes no new calls")
            is_ready = True
            return conn
    except Unauthenticated:
        raise
    except (OSError, RapError) as exc:
        reason = str(exc) or type(exc).__name__
        if isinstance(exc, TimeoutError):
            reason = f"no answer in {timeout} s"
        elif isinstance(exc, ssl.SSLCertVerificationError):
            reason = _refusal(exc, pinned is not None)
        elif isinstance(exc, ssl.SSLError) and exc.reason == "WRONG_VERSION_NUMBER":
            reason = f"it does not speak TLS ({reason})"
        elif isinstance(exc, Unavailable) and reason.startswith("connection to "):  # and lost
            asks = "speak TLS" if context is None else "want a client certificate"
            reason += f" before its Hello; does it {asks}?"
        raise Unavailable(f"cannot reach {address}: {reason}", unserved=True) from exc
    finally:
        for conn in made:
            if not is_ready and conn.transport is not None:
                conn.abort(ConnectionClosed(f"the handshake with {address} failed"))
                # uvloop does not call it for a connection that ends before it was handed out.
                asyncio.get_running_loop().call_soon(conn.connection_lost, None)


def _refusal(error: ssl.SSLCertVerificationError, is_pinned: bool) -> str:
    if is_pinned and error.verify_code != _EXPIRED:
        return "its certificate is not the pinned one"
    reason = f"its certificate is refused: {error.verify_message.rstrip('.')}"
    if error.verify_code in _UNKNOWN_ISSUER:
        reason += " (option ssl_ca_path: the authority that issued it)"
    return reason


async def _connect(
    address: Address, make: Callable[[], Connection], timeout: float, context: ssl.SSLContext | None
) -> Connection:
    loop = asyncio.get_running_loop()
    if address.scheme == "unix":
        name = "localhost" if context is not None else None
        _, conn = await loop.create_unix_connection(
            make,
            address.path,
            ssl=context,
            server_hostname=name,
            ssl_handshake_timeout=None if context is None else timeout,
            ssl_shutdown_timeout=None if context is None else _TLS_SHUTDOWN_TIMEOUT,
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
            ssl_shutdown_timeout=_TLS_SHUTDOWN_TIMEOUT,
        )
    return conn
