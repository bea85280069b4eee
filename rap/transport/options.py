"""Options of a connection, and those that clients and servers have in common.

A constant declares an option that means the same in `ClientConfig`, `ServerConfig` and
`ConnectionOptions`.
"""

from __future__ import annotations  # evaluated when an option is used: see `rap.options`

from collections.abc import Mapping
from typing import Annotated, Any

from rap.options import Option, Options
from rap.wire.hello import BOUNDS, DEFAULT_LIMITS, VERSIONS, Limits, Versions

__all__ = [
    "CLOCK",
    "CONNECTION_WINDOW",
    "HANDSHAKE_TIMEOUT",
    "KEEP_ALIVE",
    "MAX_CANCELS",
    "MAX_CANCEL_SHARE",
    "MAX_CONNECTION_AGE",
    "MAX_FRAME",
    "MAX_MESSAGE",
    "MAX_PINGS",
    "MAX_UNFINISHED",
    "MESSAGE_TIMEOUT",
    "MIN_MESSAGE_RATE",
    "PING_BUSY_TIME",
    "PING_FAIL_CNT",
    "PING_SLEEP_TIME",
    "PING_TIMEOUT",
    "PROCESSOR_LIST",
    "RNG",
    "STALL_TIMEOUT",
    "STREAM_WINDOW",
    "TIMEOUT",
    "ConnectionOptions",
    "KeepaliveOptions",
]

PROCESSOR_LIST = Option(
    "Processors of messages. Outgoing messages pass through them in this order, incoming messages "
    "in the reverse order.",
    see="middleware.md",
)
CLOCK = Option("Source of time, for tests. `None` means the clock of this machine.")
RNG = Option("Source of randomness, for tests. `None` means the random generator of the process.")
TIMEOUT = Option(
    "Seconds for the peer to finish sending a frame, or to read some of what was written. After "
    "that, the connection is closed.",
    "seconds",
    above=0,
)
HANDSHAKE_TIMEOUT = Option(
    "Seconds for a new connection to send its Hello. After that, it is closed.",
    "seconds",
    above=0,
)
KEEP_ALIVE = Option(
    "Seconds without a call after which the server sends GoAway on a connection. `None` means "
    "never.",
    "seconds",
    above=0,
)
MAX_CONNECTION_AGE = Option(
    "Age of a connection in seconds (±10 %) at which the server sends GoAway. Open calls continue "
    "for `max_connection_grace`. `None` means never.",
    "seconds",
    above=0,
)
MESSAGE_TIMEOUT = Option(
    "Seconds that a message may stay unfinished without a further part of it, or with parts that "
    "bring less than `min_message_rate`. After that, its call fails. A message that waits for its "
    "turn behind others may take longer.",
    "seconds",
    above=0,
)
MIN_MESSAGE_RATE = Option(
    "Bytes per second that the further parts of an unfinished message have to bring on average. A "
    "call whose message comes more slowly fails after `message_timeout`. 0 means that any part is "
    "enough.",
    "bytes per second",
    least=0,
    finite=True,
)
MAX_CONNECTION_GRACE = Option(
    "Seconds for which an idle or old connection may stay after the server has asked the client to "
    "leave. Then the server ends it, and calls that are still open fail with `Unavailable`. `None` "
    "means that the client decides.",
    "seconds",
    least=0,
)
STALL_TIMEOUT = Option(
    "Seconds that unread streams may hold the whole connection window. After that, the stream that "
    "has been unread the longest is reset.",
    "seconds",
    above=0,
)
PING_FAIL_CNT = Option(
    "Number of consecutive pings without an answer after which a connection is closed. Each ping "
    "waits `ping_timeout` for its answer.",
    "pings",
    least=1,
)
PING_TIMEOUT = Option("Seconds that a ping waits for its answer.", "seconds", above=0, finite=True)
PING_BUSY_TIME = Option(
    "Seconds without traffic before a ping is sent while calls are open. A client pings at most as "
    "often as the server accepts.",
    "seconds",
    above=0,
    finite=True,
)
PING_SLEEP_TIME = Option(
    "Seconds without traffic on an idle connection before a ping is sent. While calls are open, "
    "`ping_busy_time` applies.",
    "seconds",
    above=0,
)
MAX_MESSAGE = Option(
    "Maximum size of one incoming message. A larger message fails its call with "
    "`ResourceExhausted`.",
    "bytes",
    *BOUNDS["max_message"],
)
MAX_FRAME = Option(
    "Maximum size of one frame. A larger frame ends the connection.",
    "bytes",
    *BOUNDS["max_frame"],
)
STREAM_WINDOW = Option(
    "Receive window of a stream: the bytes that the peer may send on one call before your code "
    "reads some.",
    "bytes",
    *BOUNDS["stream_window"],
)
CONNECTION_WINDOW = Option(
    "Receive window of a connection: like `stream_window`, but for all calls of the connection "
    "together. It must be at least `stream_window`.",
    "bytes",
    *BOUNDS["connection_window"],
)
MAX_UNFINISHED = Option(
    "Maximum total size of partially received messages per connection. The peer is told, and lets "
    "large messages wait for their turn. A call that nevertheless exceeds it fails. `None` means "
    "eight times `max_message`.",
    "bytes",
    least="max_message",
)
MAX_PINGS = Option(
    "Pings per second that the peer may send on one connection, with a burst of ten times that. "
    "After more, the connection is closed.",
    "per second",
    least=1,
)
MAX_CANCELS = Option(
    "Calls per second that a client may cancel on one connection beyond `max_cancel_share`, with a "
    "burst of ten times that. When half of the burst is used, new calls of the connection wait. "
    "When all of it is used, the client is asked to leave, and then the connection is closed.",
    "per second",
    least=1,
)
MAX_CANCEL_SHARE = Option(
    "Share of the calls of a connection that a client may cancel at any rate: 0.5 is one cancelled "
    "call for each call that is served.",
    "share",
    least=0,
    most=0.9,
)


def check_local(value: object, option: str = "local") -> None:
    """Check the option ``local``.

    Raises:
        ValueError: The value is not one of those that there are.
    """
    if value not in ("loopback", "unix", None):
        raise ValueError(f"{option} must be 'loopback', 'unix' or None, got {value!r}")


LOCAL = Option(
    "Which clients count as being on the server's machine, so that they may call private "
    "functions: `loopback` for those on a loopback address or a unix socket, `unix` for those on a "
    "unix socket, `None` for none. Behind a sidecar or a proxy on the same machine, all clients "
    "are on a loopback address.",
    check=check_local,
    see="security.md#private-functions",
)


class KeepaliveOptions(Options, frozen=True, kw_only=True):
    """When a connection pings its peer.

    Args:
        idle: Seconds of silence before a ping when no call is open.
        busy: Seconds of silence before a ping when calls are open.
        timeout: Seconds to wait for the answer.
        failures: Unanswered pings in a row after which the connection is closed.
    """

    idle: Annotated[float, PING_SLEEP_TIME] = 30.0
    busy: Annotated[float, PING_BUSY_TIME] = 1.0
    timeout: Annotated[float, PING_TIMEOUT] = 2.5
    failures: Annotated[int, PING_FAIL_CNT] = 2


class ConnectionOptions(Options, frozen=True, kw_only=True):
    """Limits and times of the connections of one side.

    Raises:
        ValueError: A value is not allowed; the message names the option.
    """

    limits: Annotated[Limits, Option("What this side accepts.")] = DEFAULT_LIMITS
    keepalive: Annotated[KeepaliveOptions, Option("When the connection pings its peer.")] = (
        KeepaliveOptions()
    )
    hello: Annotated[
        Mapping[str, Any], Option("What the Hello of this side says besides versions and limits.")
    ] = {}
    versions: Annotated[
        Versions, Option("Versions of the wire protocol that this side speaks.")
    ] = VERSIONS
    timeout: Annotated[float, TIMEOUT] = 9.0
    stall_timeout: Annotated[float, STALL_TIMEOUT] = 10.0
    message_timeout: Annotated[float, MESSAGE_TIMEOUT] = 30.0
    min_message_rate: Annotated[float, MIN_MESSAGE_RATE] = 128.0
    handshake_timeout: Annotated[float, HANDSHAKE_TIMEOUT] = 5.0
    idle_timeout: Annotated[float | None, KEEP_ALIVE] = None
    max_age: Annotated[float | None, MAX_CONNECTION_AGE] = None
    grace: Annotated[float | None, MAX_CONNECTION_GRACE] = None
    local: Annotated[str | None, LOCAL] = "loopback"
    write_buffer: Annotated[
        int,
        Option(
            "Bytes in the transport's buffer above which large messages wait. Small calls wait "
            "behind it, so it bounds their latency.",
            "bytes",
            least=4096,
        ),
    ] = 256 * 1024
    max_cancels: Annotated[int, MAX_CANCELS] = 100
    max_cancel_share: Annotated[float, MAX_CANCEL_SHARE] = 0.5
    max_pings: Annotated[int, MAX_PINGS] = 10
