"""The calling end: `Client`, and what its callers use."""

from typing import TYPE_CHECKING

from rap._lazy import Lazy, loader
from rap.call import Request, Response
from rap.channel import Channel
from rap.client.client import Client
from rap.client.session import Session

if TYPE_CHECKING:
    from rap.client.sync import SyncClient

__all__ = ["Channel", "Client", "Request", "Response", "Session", "SyncClient"]

__getattr__ = loader(__name__, {"SyncClient": Lazy("rap.client.sync", "SyncClient")})
