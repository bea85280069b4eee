"""Connections over TCP, TLS and unix sockets."""

from rap.transport.connection import Connection
from rap.transport.options import ConnectionOptions, KeepaliveOptions
from rap.transport.stream import EndOfStream, Stream, UnaryStream

__all__ = [
    "Connection",
    "ConnectionOptions",
    "EndOfStream",
    "KeepaliveOptions",
    "Stream",
    "UnaryStream",
]
