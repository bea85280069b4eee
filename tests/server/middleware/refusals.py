"""Whether a server takes one more client."""

from typing import Any

from rap.client import Client
from rap.errors import Unavailable
from rap.server import Server

__all__ = ["is_refused"]


async def is_refused(
    server: Server, reason: str = "refused the connection", **options: Any
) -> bool:
    """Whether a new client is refused, for a reason that has the text of `reason`.

    A client goes on trying until its time is over, so it is given little; and more when it did not
    even get an answer, as on a busy machine.
    """
    for seconds in (0.3, 1.0, 3.0, 9.0):
        client = Client(server.addresses, connect_timeout=seconds, **options)
        try:
            await client.connect()
        except Unavailable as exc:
            if reason in str(exc):
                return True
        else:
            return False
        finally:
            await client.await_close()
    raise TimeoutError("no client was answered")
