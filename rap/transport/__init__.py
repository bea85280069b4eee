"""Connections over TCP, TLS and unix sockets."""

from rap.transport.connection import Connection
from rap.transport.dial import dial
from rap.transport.options import ConnectionOptions
from rap.transport.stream import EndOfStream, Stream, UnaryStream
from rap.transport.watchdog import KeepaliveOptions

__all__ = [
    "Connection",
    "ConnectionOptions",
    "EndOfStream",
    "KeepaliveOptions",
    "Stream",
    "UnaryStream",
    "dial",
]
