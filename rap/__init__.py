"""rap: call Python functions over the network.

``from rap import Client, Server`` imports what it names, and ``import rap`` alone imports nothing.
"""

TYPE_CHECKING = False  # `typing` would take most of the time of ``import rap``
if TYPE_CHECKING:
    from rap.channel import Channel
    from rap.client.client import Client
    from rap.client.interface import channel_method, interface
    from rap.client.options import start_call, with_options
    from rap.client.session import Session
    from rap.client.sync.channel import SyncChannel
    from rap.client.sync.client import SyncClient
    from rap.errors import (
        CallError,
        Cancelled,
        ChannelClosed,
        Code,
        ConnectionClosed,
        DeadlineExceeded,
        HandlerError,
        Internal,
        InvalidArgument,
        LocalProtocolError,
        NotFound,
        PeerSilent,
        PermissionDenied,
        ProtocolError,
        RapError,
        RegistrationError,
        RegistryError,
        RemoteProtocolError,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        VersionMismatch,
    )
    from rap.schema.markers import idempotent
    from rap.server import context
    from rap.server.server import Server

__all__ = [
    "CallError",
    "Cancelled",
    "Channel",
    "ChannelClosed",
    "Client",
    "Code",
    "ConnectionClosed",
    "DeadlineExceeded",
    "HandlerError",
    "Internal",
    "InvalidArgument",
    "LocalProtocolError",
    "NotFound",
    "PeerSilent",
    "PermissionDenied",
    "ProtocolError",
    "RapError",
    "RegistrationError",
    "RegistryError",
    "RemoteProtocolError",
    "ResourceExhausted",
    "Server",
    "Session",
    "SyncChannel",
    "SyncClient",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "VersionMismatch",
    "__version__",
    "channel_method",
    "context",
    "idempotent",
    "interface",
    "start_call",
    "with_options",
]

__version__ = "1.0.0.dev0"

_MODULES = {
    "Channel": "rap.channel",
    "Client": "rap.client",
    "Server": "rap.server",
    "Session": "rap.client",
    "SyncChannel": "rap.client.sync",
    "SyncClient": "rap.client",
    "channel_method": "rap.client.interface",
    "context": "rap.server",
    "idempotent": "rap.schema.markers",
    "interface": "rap.client.interface",
    "start_call": "rap.client.options",
    "with_options": "rap.client.options",
}

if not TYPE_CHECKING:  # type checkers know the names by the imports, and refuse any other

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        found = getattr(importlib.import_module(_MODULES.get(name, "rap.errors")), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
