"""The peers by name."""

import importlib

from bench.adapter import Adapter

__all__ = ["PEERS", "load_adapter"]

# Module of `bench.adapters` by name, in the order of tables.
PEERS = {
    "rap": "rap_here",
    "limit": "limit_thin",
    "grpc.aio": "grpc_aio",
    "grpclib": "grpclib_py",
    "connectrpc": "connect_py",
    "pycapnp": "capnp_py",
    "aiorpc": "aiorpc_py",
    "http": "http_json",
}


def load_adapter(peer: str) -> Adapter:
    """Return the adapter of a peer.

    Raises:
        ValueError: There is no such peer.
    """
    if peer not in PEERS:
        raise ValueError(f"peers are {', '.join(PEERS)}; got {peer!r}")
    adapter: Adapter = importlib.import_module(f"bench.adapters.{PEERS[peer]}").ADAPTER
    return adapter
