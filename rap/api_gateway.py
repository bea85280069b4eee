"""The name of `rap.gateway` in earlier releases."""

from rap.gateway import create_app

__all__ = ["create_app"]
