"""The calling end: `Client`, and what its callers use."""

from typing import TYPE_CHECKING

from rap.channel import Channel
from rap.client.core import Client
from rap.client.session import Session
from rap.lazy import Lazy, loader
from rap.message import Request, Response

if TYPE_CHECKING:
    from rap.client.sync import SyncClient

__all__ = ["Channel", "Client", "Request", "Response", "Session", "SyncClient"]

__getattr__ = loader(__name__, {"SyncClient": Lazy("rap.client.sync", "SyncClient")})
