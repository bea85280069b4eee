"""The module of release 0.5.3.8 that had `create_app`; it is in `rap.gateway` now."""

from rap.gateway import create_app

__all__ = ["create_app"]
