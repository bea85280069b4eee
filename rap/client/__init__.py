"""The calling end: `Client`, and what its callers use."""

from rap.channel import Channel
from rap.client.core import Client
from rap.client.session import Session
from rap.client.sync import SyncClient
from rap.message import Request, Response

__all__ = ["Channel", "Client", "Request", "Response", "Session", "SyncClient"]
