"""The server side: `Server`, and the objects that handlers use."""

from rap.call import Request, Response
from rap.channel import Channel
from rap.server import context
from rap.server.context import Session
from rap.server.server import Server

__all__ = ["Channel", "Request", "Response", "Server", "Session", "context"]
