"""Who may connect: the token in a client's Hello is verified before anything else is read.

A client that is refused is told so in a GoAway with the code UNAUTHENTICATED, in answer to its
Hello: it knows before it has made a call.
"""

import asyncio
import dataclasses
import logging
import math
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from rap.clock import Clock
from rap.errors import Code
from rap.server.failures import Failures
from rap.server.hello import HelloReader
from rap.server.verifier import Verify, verify_with

if TYPE_CHECKING:
    from rap.server.config import ServerConfig
    from rap.transport import Connection

__all__ = ["Authenticator", "authenticator_of"]

_LEAVE_TIMEOUT = 1.0  # seconds for a client that was refused to close by itself


class Authenticator:
    """Admits connections whose token is right.

    Args:
        verify: Tells who a token belongs to.
        failures: Counts what was refused.
        timeout: Seconds for the verdict.
        log: Logger of the server.
    """

    def __init__(
        self, verify: Verify, failures: Failures, timeout: float, log: logging.Logger
    ) -> None:
        self.failures = failures
        self._verify = verify
        self._timeout = timeout
        self._log = log

    async def admit(self, conn: "Connection") -> bool:
        """Let a connection that is held back go on; `False`: it was told why not."""
        reader = HelloReader(conn)
        hello = await reader.read()
        if conn.closed:
            return False
        code, reason = await self._judge(conn, (hello or {}).get("token"))
        if code is Code.OK:
            reader.hand_over()
            conn.protocol.peer_hello.pop("token", None)
            return True
        self._log.warning("connection with %s refused: %s", conn.peer, reason)
        conn.go_away(final=True, code=code, message=reason)  # what else it sent is not served
        reader.hand_over()
        await asyncio.wait([conn.ended], timeout=_LEAVE_TIMEOUT)
        return False

    async def _judge(self, conn: "Connection", token: object) -> tuple[Code, str]:
        """Return OK, or a code and the reason; sets the identity of the peer."""
        try:
            async with asyncio.timeout(self._timeout), self.failures.attempt(conn.peer) as wait:
                if wait:
                    text = "too many refused tokens from this address; "
                    return Code.UNAUTHENTICATED, f"{text}try again in {math.ceil(wait)} s"
                if not isinstance(token, str | bytes):
                    return self._refused(conn, "a token is needed")
                identity = self._verify(token, conn.peer)
                if isinstance(identity, Awaitable):
                    identity = await identity
                if not identity:
                    return self._refused(conn, "the token was refused")
        except TimeoutError:
            return Code.UNAVAILABLE, f"the token was not verified in {self._timeout:g} s"
        except Exception:
            self._log.exception("verify_token failed for the connection with %s", conn.peer)
            return Code.UNAVAILABLE, "the token could not be verified"
        if identity is not True:
            conn.peer = dataclasses.replace(conn.peer, identity=identity)
        return Code.OK, ""

    def _refused(self, conn: "Connection", reason: str) -> tuple[Code, str]:
        self.failures.add(conn.peer)
        return Code.UNAUTHENTICATED, reason


def authenticator_of(
    config: "ServerConfig", clock: Clock, log: logging.Logger
) -> Authenticator | None:
    """Return what admits the connections of a server; `None` if all may connect."""
    if config.verify_token is None:
        return None
    failures = Failures(config.max_token_failures, clock)
    # A connection that has said nothing is cut at `handshake_timeout`, so the verdict comes before.
    limit = config.handshake_timeout / 2
    return Authenticator(verify_with(config.verify_token), failures, limit, log)
