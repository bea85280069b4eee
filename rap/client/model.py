"""The messages of a call, under the name that clients import them by."""

from rap.call import Call, Request, Response

__all__ = ["Call", "Request", "Response"]
