"""The serving end: `Server`, and what its handlers use."""

from rap.channel import Channel
from rap.message import Request, Response
from rap.server import context
from rap.server.context import Session
from rap.server.core import Server

__all__ = ["Channel", "Request", "Response", "Server", "Session", "context"]
