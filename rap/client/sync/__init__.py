"""The client for programs without an event loop."""

from rap.client.sync.channel import SyncChannel
from rap.client.sync.client import SyncClient, SyncSession

__all__ = ["SyncChannel", "SyncClient", "SyncSession"]
