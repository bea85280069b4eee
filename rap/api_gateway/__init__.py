"""The former name of `rap.gateway`."""

from rap.gateway import create_app

__all__ = ["create_app"]
