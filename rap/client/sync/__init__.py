"""The client for programs without an event loop."""

from rap.client.sync.client import SyncClient

__all__ = ["SyncClient"]
