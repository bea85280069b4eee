"""What the programs of the example read from the environment."""

import os
import socket
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Settings", "settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """One value of each; all of them are text, and an empty one is none.

    Args:
        listen: Address on which a service listens.
        registry: URL of the registry.
        state: URL of the Redis that counts limits and nonces for all instances; none: in memory.
        name: What an instance calls itself in answers.
        certificate: PEM file of a server; with it and `key` a service speaks TLS.
        key: PEM file of its key.
        authority: PEM file of the authority that the other side's certificate must be of.
        secret: Key of encrypted calls to ``calc``: 16, 24 or 32 characters; none: plain calls.
    """

    listen: str
    registry: str
    state: str
    name: str
    certificate: str
    key: str
    authority: str
    secret: str = field(repr=False)

    def server_options(self) -> dict[str, Any]:
        """Return what every service of the example passes to `Server`."""
        return {
            "registry": self.registry,
            "ssl_crt_path": self.certificate or None,
            "ssl_key_path": self.key or None,
            "ssl_ca_path": self.authority or None,
        }

    def client_options(self) -> dict[str, Any]:
        """Return what every client of the example passes to `Client`.

        Inside the cluster a certificate is for both roles, so that services prove themselves to
        each other with one pair of files.
        """
        return {
            "registry": self.registry,
            "ssl_ca_path": self.authority or None,
            "ssl_client_crt_path": (self.authority and self.certificate) or None,
            "ssl_client_key_path": (self.authority and self.key) or None,
        }


def settings() -> Settings:
    """Read the environment: ``APP_LISTEN``, ``APP_REGISTRY`` and so on."""
    registry = os.environ.get("APP_REGISTRY") or "redis://localhost:6379/0"
    return Settings(
        listen=os.environ.get("APP_LISTEN") or "0.0.0.0:9000",
        registry=registry,
        state=os.environ.get("APP_STATE", ""),
        name=os.environ.get("APP_NAME") or socket.gethostname(),
        certificate=os.environ.get("APP_CERTIFICATE", ""),
        key=os.environ.get("APP_KEY", ""),
        authority=os.environ.get("APP_AUTHORITY", ""),
        secret=os.environ.get("APP_SECRET", ""),
    )
